"""Stage 1: proteins, labels, taxa, ontology, split and homology, checked and in the formats all later stages read.

Every input is parsed and checked before the first search starts, so that a wrong file fails in seconds. Counts,
priors and computed information accretion come from fit proteins only: no label of a validation protein enters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from services.train.checks import check_test_labels
from services.train.data.tables import label_frame, label_matrix, read_information, read_labels, read_taxonomy
from services.train.splits import Split, join_near_copies, make_split, near_pairs, read_split_ids
from services.train.stage import Stage, StageContext, always
from shared.config import DataConfig, HomologyConfig, SplitConfig
from shared.digests import canonical_json, sha256_bytes, sha256_file
from shared.errors import DataError
from shared.fasta import FastaTable, read_fasta_table
from shared.homology import cluster, clustering_method, search
from shared.mmseqs import searcher_version
from shared.ontology import ASPECTS, Ontology, information_accretion, propagate_labels, term_priors

LABELLED_AT_ONCE = 8192  # proteins, with a hundred labels and more each
FILES = (
    "train_fasta",
    "train_terms",
    "train_taxonomy",
    "test_fasta",
    "test_taxonomy",
    "test_terms",
    "known_terms",
    "obo",
    "ia",
    "split_ids",
)


@dataclass(slots=True)
class Record:
    """What `parsed/dataset_manifest.json` says of the inputs: rows of each file, and what was left out."""

    rows: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelSet:
    """Labels of one set of proteins: boolean CSR [protein, ontology term], as written and with all ancestors."""

    stated: sparse.csr_array
    propagated: sparse.csr_array

    def frames(self, ids: Sequence[str], ontology: Ontology) -> Iterator[pd.DataFrame]:
        """One row per label, some proteins at a time; at least one table."""
        for start in range(0, max(1, len(ids)), LABELLED_AT_ONCE):
            place = slice(start, start + LABELLED_AT_ONCE)
            yield label_frame(self.stated[place], self.propagated[place], ids[place], ontology)


def run(ctx: StageContext) -> None:
    """Read, check, cluster, split, search, count."""
    record = Record()
    train = _read_proteins(ctx, record, "train_fasta")
    test = _read_proteins(ctx, record, "test_fasta")
    train_ids, test_ids = train.ids, test.ids
    ontology = Ontology.parse(ctx.require_file("data.obo"))
    record.rows["obo"] = len(ontology)
    record.facts["ontology"] = {"version": ontology.version, "terms": len(ontology), "obsolete": len(ontology.obsolete)}
    labels = _read_label_set(ctx, record, "train_terms", train_ids, ontology)
    if not labels.stated.nnz:
        remedy = "Use the accessions of the train FASTA, and the OBO release of the labels"
        raise DataError("no train protein has a label", where=str(ctx.require_file("data.train_terms")), remedy=remedy)
    information = _read_information(ctx, record, ontology)
    listed = _read_listed(ctx, record)

    _write_proteins(ctx, record, "train", train)
    _write_proteins(ctx, record, "test", test)
    ctx.write("parsed/ontology.json", ontology.to_json())
    ctx.write("parsed/train_terms.parquet", labels.frames(train_ids, ontology))
    truths = {key: _read_label_set(ctx, record, key, test_ids, ontology) for key in ("test_terms", "known_terms")}
    for key, path in (("test_terms", "parsed/test_truth.parquet"), ("known_terms", "parsed/known_terms.parquet")):
        ctx.write(path, truths[key].frames(test_ids, ontology))

    record.facts["test_labels_in_train"] = _refuse_test_labels(labels, truths, train_ids, test_ids)
    hits = _search(ctx, train, test)
    split = _split(ctx, train, hits, listed)
    priors = _priors(labels, ~split.validation, ontology, information)
    ctx.write("parsed/term_priors.parquet", priors)
    split_record = _checked_record(ctx, split, train, hits)
    ctx.write("parsed/splits.feather", split.frame())
    ctx.write("parsed/splits.json", split_record)
    record.facts["test_proteins_in_train"] = len(set(train_ids) & set(test_ids))
    ctx.write("parsed/dataset_manifest.json", _dataset_manifest(ctx, record, split_record))


def _read_proteins(ctx: StageContext, record: Record, key: str) -> FastaTable:
    proteins = read_fasta_table(ctx.require_file(f"data.{key}"))
    record.rows[key] = len(proteins)
    return proteins


def _read_label_set(ctx: StageContext, record: Record, key: str, ids: Sequence[str], ontology: Ontology) -> LabelSet:
    """Labels of a file; an unset optional file is an empty set."""
    path = ctx.require_file("data.train_terms") if key == "train_terms" else ctx.file(f"data.{key}")
    if path is None:
        empty = sparse.csr_array((len(ids), len(ontology)), dtype=np.bool_)
        return LabelSet(empty, empty)
    labels = read_labels(path, ontology)
    stated, others = label_matrix(labels, ids, len(ontology))
    record.rows[key] = labels.rows
    record.left_out[key] = {**labels.dropped, "other_proteins": others}
    lost = labels.dropped["unknown"]["rows"] + labels.dropped["obsolete"]["rows"]
    if lost:
        ctx.log.warning(
            f"data.{key}: {lost} labels of terms that the OBO does not have were left out", **labels.dropped
        )
    if others["rows"]:
        ctx.log.warning(f"data.{key}: labels of proteins that are not in the FASTA were left out", **others)
    return LabelSet(stated, propagate_labels(stated, ontology))


def _refuse_test_labels(
    labels: LabelSet, truths: dict[str, LabelSet], train_ids: Sequence[str], test_ids: Sequence[str]
) -> dict[str, Any]:
    """What the truth states of a test protein may not be among the labels of the same protein in train.

    Raises:
        DataError: it is.
    """
    row_of = {protein: row for row, protein in enumerate(train_ids)}
    at = [(place, row_of[protein]) for place, protein in enumerate(test_ids) if protein in row_of]
    place, row = np.array(at, np.int64).reshape(-1, 2).T
    same = sparse.csr_array((np.ones(len(at), np.int8), (place, row)), shape=(len(test_ids), len(train_ids)))
    train = sparse.csr_array(same @ labels.propagated.astype(np.int8))
    check = check_test_labels(truths["test_terms"].stated, truths["known_terms"].propagated, train)
    if not check.holds:
        remedy = "Take them out of data.train_terms, or name what was known before in data.known_terms"
        raise DataError(check.says, where="data.test_terms", remedy=remedy)
    return dict(check.found)


def _read_information(ctx: StageContext, record: Record, ontology: Ontology) -> npt.NDArray[np.float32] | None:
    """Information accretion from the user's file; None where it is to be computed."""
    path = ctx.file("data.ia")
    if path is None:
        record.facts["ia_source"] = "computed from the labels of fit proteins"
        return None
    information, counts = read_information(path, ontology)
    record.rows["ia"] = len(ontology) - counts["terms_without_value"]
    record.facts["ia_source"] = "file"
    record.left_out["ia"] = counts
    if counts["unknown_terms"] or counts["terms_without_value"]:
        ctx.log.warning("data.ia and data.obo have different terms; a term without a value counts 0 bits", **counts)
    return information


def _read_listed(ctx: StageContext, record: Record) -> list[str] | None:
    path = ctx.file("data.split_ids")
    if path is None:
        return None
    listed = read_split_ids(path)
    record.rows["split_ids"] = len(listed)
    return listed


def _write_proteins(ctx: StageContext, record: Record, part: str, proteins: FastaTable) -> None:
    """Sequences and taxa. The taxonomy file comes before the FASTA header; neither means taxon 0."""
    path = ctx.file(f"data.{part}_taxonomy")
    given = read_taxonomy(path) if path is not None else {}
    if path is not None:
        record.rows[f"{part}_taxonomy"] = len(given)
    ids, of_headers = proteins.ids, proteins.taxa
    taxa = [given.get(name, taxon or 0) for name, taxon in zip(ids, of_headers, strict=True)]
    ctx.write(f"parsed/{part}_seq.feather", pd.DataFrame({"id": ids, "sequence": proteins.sequences}))
    ctx.write(f"parsed/{part}_taxa.feather", pd.DataFrame({"id": ids, "taxon_id": np.array(taxa, np.int64)}))
    record.facts[f"{part}_taxa"] = {
        "different": len(set(taxa) - {0}),
        "from_fasta": sum(name not in given and taxon is not None for name, taxon in zip(ids, of_headers, strict=True)),
        "unknown": taxa.count(0),
    }


def _split(ctx: StageContext, train: FastaTable, hits: pd.DataFrame, listed: list[str] | None) -> Split:
    config = ctx.settings(SplitConfig)
    ids, sequences = train.ids, train.sequences
    ctx.log.event(f"clustering {len(train)} train proteins", searcher=searcher_version())
    clusters = cluster(
        ids,
        sequences,
        min_seq_id=config.min_seq_id,
        coverage=config.coverage,
        linear=len(train) > config.linclust_above,
        threads=ctx.threads,
        work=_searches(ctx),
        report=ctx.log.event,
    )
    clusters = join_near_copies(clusters, hits, config.near_copy_identity, config.coverage)
    split = make_split(ids, sequences, clusters, config, listed)
    if listed is not None:
        unknown, moved = split.record["unknown"], split.record["moved_to_val_as_identical"]
        if unknown["count"]:
            ctx.log.warning("data.split_ids names proteins that are not in the train FASTA", **unknown)
        if moved["count"]:
            ctx.log.warning("copies of validation proteins were moved to validation", **moved)
    return split


def _search(ctx: StageContext, train: FastaTable, test: FastaTable) -> pd.DataFrame:
    """Write both homology tables; the hits of the train proteins in themselves."""
    targets = list(zip(train.ids, train.sequences, strict=True))
    queries = list(zip(test.ids, test.sequences, strict=True))
    common: dict[str, Any] = {
        **ctx.settings(HomologyConfig).model_dump(),
        "threads": ctx.threads,
        "work": _searches(ctx),
        "report": ctx.log.event,
    }
    ctx.log.event(f"searching {len(queries)} test proteins among {len(targets)} train proteins")
    ctx.write("parsed/homology_test.feather", search(queries, targets, **common))
    ctx.log.event(f"searching {len(targets)} train proteins among themselves")
    hits = search(targets, targets, within=True, **common)
    ctx.write("parsed/homology_train.feather", hits)
    return hits


def _checked_record(ctx: StageContext, split: Split, train: FastaTable, hits: pd.DataFrame) -> dict[str, Any]:
    """The record of the split, with the similar pairs that it did not keep together.

    Raises:
        DataError: a near copy of a validation protein would be fitted on.
    """
    config = ctx.settings(SplitConfig)
    near = near_pairs(split, hits, config.min_seq_id, config.coverage)
    ctx.log.event(
        "split", **split.sizes(), near_across_folds=near["across_folds"]["pairs"], near_val_fit=near["val_fit"]["pairs"]
    )
    copies = near_pairs(split, hits, config.near_copy_identity, config.coverage)
    if copies["val_fit"]["pairs"]:
        pairs, examples = copies["val_fit"]["pairs"], copies["val_fit"]["examples"]
        what = (
            f"{pairs} pairs of a validation and a fit protein are near copies, for example {' and '.join(examples[0])}"
        )
        remedy = "List both or none of each pair, clear data.split_ids, or raise split.near_copy_identity above 1"
        raise DataError(what, where="data.split_ids", remedy=remedy)
    _, sizes = np.unique(split.clusters, return_counts=True)
    return {
        **split.record,
        "seed": config.seed,
        "folds": "whole clusters, largest first into the smallest fold",
        "clusters": {
            "method": clustering_method(len(set(train.sequences)), len(train) > config.linclust_above),
            "min_seq_id": config.min_seq_id,
            "coverage": config.coverage,
            "count": len(sizes),
            "largest": int(sizes.max()),
        },
        "searcher": searcher_version(),
        "search": ctx.settings(HomologyConfig).model_dump(),
        "sizes": split.sizes(),
        "ids_sha256": split.hashes(),
        "near_pairs": near,
        "near_copies": copies,
    }


def _searches(ctx: StageContext) -> Path:
    """Finished searches are content-keyed, so that a run with other labels on the same proteins finds them again."""
    return ctx.cache / "homology"


def _priors(
    labels: LabelSet,
    fit: npt.NDArray[np.bool_],
    ontology: Ontology,
    information: npt.NDArray[np.float32] | None,
) -> pd.DataFrame:
    """Columns of `parsed/term_priors.parquet`: one row per live term, in the ontology's order.

    `prior` is P(term) among fit proteins that have any label of the term's aspect, because an aspect without
    labels is unknown, not negative; `conditional_prior` is P(term | a parent of it), and the prior for roots.
    """
    known = labels.propagated[np.flatnonzero(fit)]
    counts = np.bincount(known.indices, minlength=len(ontology))
    if not counts.any():
        remedy = "Give labels of proteins outside data.split_ids"
        raise DataError("no fit protein has a label", where="data.train_terms", remedy=remedy)
    rows = np.repeat(np.arange(known.shape[0]), np.diff(known.indptr))
    aspects = ontology.aspects[known.indices]
    annotated = np.array([len(np.unique(rows[aspects == aspect])) for aspect in range(len(ASPECTS))])
    prior = counts / np.maximum(1, annotated[ontology.aspects])
    orphan = np.array([not parents for parents in ontology.parents])
    conditional = np.where(orphan, prior, term_priors(known, ontology)[1])
    return pd.DataFrame(
        {
            "term": list(ontology.terms),
            "aspect": [ASPECTS[aspect] for aspect in ontology.aspects],
            "count": counts.astype(np.int64),
            "prior": prior.astype(np.float32),
            "conditional_prior": conditional.astype(np.float32),
            "ia": information_accretion(known, ontology) if information is None else information,
        }
    )


def _dataset_manifest(ctx: StageContext, record: Record, split: dict[str, Any]) -> dict[str, Any]:
    """What the run was made from. Files are named by key, because their paths decide nothing."""
    data = ctx.settings(DataConfig)
    files = {
        key: {"sha256": sha256_file(path), "rows": record.rows[key]}
        for key in FILES
        if (path := ctx.file(f"data.{key}")) is not None
    }
    return {
        "name": data.name,
        "version": data.version,
        "files": files,
        **record.facts,
        "left_out": record.left_out,
        "split": {"sizes": split["sizes"], "sha256": sha256_bytes(canonical_json(split))},
    }


# Every file of the data section but the text and the GAF, which later stages read.
READS = tuple(f"data.{key}" for key in DataConfig.input_files() if key not in ("text", "gaf"))

STAGE = Stage(
    id="stage_01_parsed",
    version=1,
    run=run,
    inputs=always(),
    outputs=always(
        "parsed/train_seq.feather",
        "parsed/test_seq.feather",
        "parsed/train_terms.parquet",
        "parsed/train_taxa.feather",
        "parsed/test_taxa.feather",
        "parsed/term_priors.parquet",
        "parsed/ontology.json",
        "parsed/splits.feather",
        "parsed/splits.json",
        "parsed/dataset_manifest.json",
        "parsed/homology_train.feather",
        "parsed/homology_test.feather",
        "parsed/test_truth.parquet",
        "parsed/known_terms.parquet",
    ),
    sections=(DataConfig, SplitConfig, HomologyConfig),
    files=READS,
)
