"""Stage 4: what GOA says about the proteins by evidence that is not the benchmark's own.

Train labels are read, to take out annotations that imply one of them; the labels of test proteins are
never read here, whatever the annotations say about them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet

from services.train.blocks import Block
from services.train.goa.annotations import CHANNELS, Annotations, RowRules, collect
from services.train.goa.gaf import GafHeader, read_gaf
from services.train.goa.graph import IntArray, TermTable
from services.train.goa.priors import PriorCounts, Priors, write_priors
from services.train.stage import Stage, StageContext, always
from shared.config import DataConfig, GoaConfig
from shared.ontology import Ontology
from shared.progress import Progress

INPUTS = (
    "parsed/train_seq.feather",
    "parsed/test_seq.feather",
    "parsed/train_terms.parquet",
    "parsed/ontology.json",
)
OUTPUTS = (
    "external/prop_train_no_kaggle.tsv.gz",
    "external/prop_test_no_kaggle.tsv.gz",
    "external/goa_manifest.json",
)
RULE = (
    "Rows with a dropped code, assigned after frozen_at, or of an unknown or obsolete term are left out. "
    "So is a row that states a label of the same train protein, or (itself or what it implies) a most specific one; "
    "labels of test proteins are not read. ND rows stay, in their own channel; they annotate roots. "
    "NOT rows go to the channel NOT, which is propagated to descendants; the others are propagated to ancestors "
    "over is_a and part_of within the aspect."
)


def run(ctx: StageContext) -> None:
    """Read the GAF file once, keep the rows of known proteins, write their propagated pairs."""
    settings = ctx.settings(GoaConfig)
    train, test = (list(ctx.read(f"parsed/{part}_seq.feather")["id"]) for part in ("train", "test"))
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*train, *test]))}
    path = ctx.file("data.gaf")
    header, annotations, priors = GafHeader(), None, None
    if path is not None:
        terms = TermTable(Ontology.from_json(ctx.read("parsed/ontology.json")))
        annotations = _annotations(ctx, path, numbers, terms, header)
        labels = _stated_labels(ctx, numbers, terms) if settings.drop_stated_labels else np.zeros(0, np.int64)
        priors = Priors(terms, annotations.keys, labels)
    written = {
        part: _write(ctx, f"external/prop_{part}_no_kaggle.tsv.gz", ids, numbers, priors)
        for part, ids in (("train", train), ("test", test))
    }
    ctx.write("external/goa_manifest.json", _manifest(settings, header, annotations, written))


def _annotations(
    ctx: StageContext, path: Path, numbers: dict[str, int], terms: TermTable, header: GafHeader
) -> Annotations:
    settings = ctx.settings(GoaConfig)
    wanted = {name.encode(): number for name, number in numbers.items()}
    with ctx.progress("read GAF", path.stat().st_size, "B") as bar:
        rows = read_gaf(path, wanted, header, lambda block: _advance_to(bar, block))
        annotations = collect(rows, terms, RowRules(frozenset(settings.dropped_codes), settings.frozen_at), str(path))
    if header.version is None:
        ctx.log.warning("the GAF file states no gaf-version; read as 2.x", file=str(path))
    if not len(annotations.keys):
        ctx.log.warning("the GAF file has nothing to say about any protein", file=str(path), rows=header.rows)
    return annotations


def _advance_to(bar: Progress, block: Block) -> None:
    bar.advance(block.consumed - bar.done)


def _stated_labels(ctx: StageContext, numbers: dict[str, int], terms: TermTable) -> IntArray:
    """Sorted `protein * terms + term` of every label that the input states."""
    table = parquet.read_table(
        ctx.input("parsed/train_terms.parquet"), columns=["id", "term"], filters=[("stated", "==", True)]
    )
    owners = _map_distinct(table["id"].to_pandas(), numbers)
    labels = _map_distinct(table["term"].to_pandas(), {name: number for number, name in enumerate(terms.ids)})
    return np.unique(owners * len(terms) + labels)


def _map_distinct(values: pd.Series[str], numbers: dict[str, int]) -> IntArray:
    codes, distinct = pd.factorize(values)
    return np.array([numbers[name] for name in distinct], np.int64)[codes] if len(codes) else np.zeros(0, np.int64)


def _write(ctx: StageContext, path: str, ids: list[str], numbers: dict[str, int], priors: Priors | None) -> PriorCounts:
    proteins = np.array([numbers[name] for name in ids], np.int64)
    with ctx.progress(f"write {path}", len(ids), "proteins") as bar:
        return write_priors(ctx.output(path), ids, proteins, priors, bar.advance)


def _manifest(
    settings: GoaConfig, header: GafHeader, annotations: Annotations | None, written: dict[str, PriorCounts]
) -> dict[str, Any]:
    return {
        "modality": "absent" if annotations is None else "present",
        "gaf": {"version": header.version, "generated": header.generated, "go_version": header.go_version},
        "frozen_at": settings.frozen_at,
        "dropped_codes": sorted(settings.dropped_codes),
        "drop_stated_labels": settings.drop_stated_labels,
        "channels": CHANNELS,
        "rule": RULE,
        "counts": {
            "rows": header.rows,
            **({} if annotations is None else annotations.counts.to_json()),
            **{part: counts.to_json() for part, counts in written.items()},
        },
    }


STAGE = Stage(
    id="stage_04_external_goa_priors",
    version=1,
    run=run,
    inputs=always(*INPUTS),
    outputs=always(*OUTPUTS),
    sections=(DataConfig, GoaConfig),
    files=("data.gaf",),
)
