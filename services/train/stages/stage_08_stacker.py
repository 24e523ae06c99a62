"""Stage 8: combine the level-1 scores over the GO graph, cross-fitted.

A fold's stacker is fitted on the out-of-fold scores of the other folds and scores its own fold;
validation and test proteins get the mean of all folds' stackers. Fitted parts and finished blocks of
scores stay in the work folder, so that a killed stage resumes where it stopped.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import sparse

from services.train.fits import fit_threads, make_fits
from services.train.models.calibrating import Scored, calibrate, held_out_record
from services.train.models.cross import fit_cross
from services.train.models.inputs import Splits, load_annotated, load_labels, load_splits
from services.train.models.stacking import AspectData, StackingContext, fit_aspect
from services.train.stage import Stage, StageContext, always
from shared.atomic import atomic_path, write_bytes, write_json
from shared.config import Config, Level1Config, StackerConfig
from shared.digests import digest_of_lines
from shared.errors import IntegrityError
from shared.models.channels import Channels, CrossAspect, goa_matrices
from shared.models.features import FloatArray, IntArray
from shared.nn.device import resolve_device
from shared.nn.stacker import AspectStacker, StackerEnsemble, StackerLayout, StackerShape, cross_tensors
from shared.nn.transforms import row_blocks
from shared.ontology import ASPECTS, Ontology

TOP_TERMS, OUT_OF_FOLD, TEST = "features/top_terms_1500.json", "features/oof_gcn.npy", "features/test_pred_gcn.npy"
WEIGHTS, RECORD = "models/stacker.pth", "models/stacker.json"
LEVEL1_TERMS = "features/level1_terms.json"
GOA = {which: f"external/prop_{which}_no_kaggle.tsv.gz" for which in ("train", "test")}
GOA_LINES = 1_000_000  # read at once
BLOCK_ROWS = 2048  # proteins scored between two saves
Matrices = Mapping[str, npt.NDArray[np.float16]]
Goa = Mapping[str, sparse.csr_array]


@dataclass(frozen=True, slots=True)
class Proteins:
    """Level-1 logits [protein, level-1 term] by model and GOA scores [protein, stacker term] by kind."""

    level1: Matrices
    goa: Goa

    def at(self, rows: IntArray) -> Proteins:
        """The proteins at `rows`, in memory."""
        return Proteins(
            {name: matrix[rows] for name, matrix in self.level1.items()},
            {kind: matrix[rows] for kind, matrix in self.goa.items()},
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that the stage reads."""

    layout: StackerLayout
    train: Proteins
    test: Proteins
    tests: int
    labels: sparse.csr_array  # [train protein, stacker term]
    annotated: npt.NDArray[np.bool_]  # [train protein, aspect]
    splits: Splits
    missing: Mapping[int, FloatArray]  # fold -> [stacker term]
    roots: frozenset[str]
    cross: Mapping[str, CrossAspect]  # aspect -> the others' scores; empty where they are not read


def run(ctx: StageContext) -> None:
    """Fit, score and calibrate."""
    prepared = prepare(ctx)
    layout = prepared.layout
    tensors, records = fit_all(ctx, StackerFits(ctx, prepared))
    ensemble = StackerEnsemble.restore(layout.to_json(), tensors, str(resolve_device(ctx.device)))
    out_of_fold = score_train(ctx, prepared, ensemble)
    score_test(ctx, prepared, ensemble)
    scored = Scored(layout, out_of_fold, prepared.labels, prepared.annotated)
    quantile = ctx.settings(StackerConfig).low_conf_quantile
    calibration = calibrate(scored, prepared.splits.fit_rows, prepared.roots, quantile)
    validation = held_out_record(scored, prepared.splits.validation_rows, prepared.train.level1, calibration)
    ctx.write(TOP_TERMS, {"terms": list(layout.terms), "aspects": list(layout.aspects)})
    ctx.write(WEIGHTS, tensor_bytes(tensors))
    ctx.write(
        RECORD,
        {
            "version": 2,
            **layout.to_json(),
            **calibration.to_json(),
            "roots": sorted(prepared.roots & set(layout.terms)),
            "folds_record": records,
            "validation": validation,
        },
    )


class StackerFits:
    """A fit per fold and aspect, named `<fold>/<aspect>`; see `Fits`."""

    unit = "epoch"

    def __init__(self, ctx: StageContext, prepared: Prepared) -> None:
        self.ctx, self.prepared = ctx, prepared
        self.views = aspect_views(prepared)
        self.names = [f"{fold}/{aspect}" for fold in prepared.layout.folds for aspect in self.views]
        self.steps = max(1, ctx.settings(StackerConfig).epochs)

    def file(self, name: str, suffix: str) -> Path:
        """A fit's file in the work folder: its `.pth`, or its record, which is written last and vouches for it."""
        return self.ctx.work / f"fold{name.replace('/', '_')}{suffix}"

    def is_made(self, name: str) -> bool:
        """See `Fits`."""
        return self.file(name, ".json").exists()

    def make(self, name: str, step: Callable[[], None]) -> None:
        """See `Fits`; it is the whole team's."""
        self.ctx.team.call(self.ctx.stage.id, name)
        network, record = self._fit(name, step)
        write_bytes(self.file(name, ".pth"), tensor_bytes(network.state_dict()))
        write_json(self.file(name, ".json"), record)

    def share(self, name: str) -> None:
        """See `Fits`."""
        self._fit(name, nothing)

    def read(self, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The tensors and the record of a fit that was made."""
        tensors: dict[str, torch.Tensor] = torch.load(self.file(name, ".pth"), weights_only=True)
        return tensors, json.loads(self.file(name, ".json").read_bytes())

    def _fit(self, name: str, step: Callable[[], None]) -> tuple[AspectStacker, dict[str, Any]]:
        fold, _, aspect = name.partition("/")
        return fit_aspect(self.views[aspect], replace(stacking_context(self.ctx, int(fold)), after_epoch=step))


def nothing() -> None:
    """Whom a fit without a bar tells of an epoch."""


def prepare(ctx: StageContext) -> Prepared:
    """Read the inputs, choose the terms and lay out the stacker."""
    config, models = ctx.settings(StackerConfig), ctx.settings(Level1Config).models
    level1_terms = ctx.read(LEVEL1_TERMS)
    terms = list(level1_terms["terms"])
    train_ids = ctx.read("parsed/train_seq.feather")["id"].tolist()
    test_ids = ctx.read("parsed/test_seq.feather")["id"].tolist()
    splits = load_splits(ctx.read, train_ids)
    table = ctx.read("parsed/train_terms.parquet")
    ontology = Ontology.from_json(ctx.read("parsed/ontology.json"))
    labels = load_labels(table, train_ids, terms)
    columns = most_frequent(labels[splits.fit_rows], terms, config.terms)
    chosen = [terms[column] for column in columns]
    fitted = {fold: np.asarray(level1_terms["fold_terms"][str(fold)], bool) for fold in splits.fold_numbers()}
    missing = {fold: (~known[columns]).astype(np.float32) for fold, known in fitted.items()}
    goa_train = goa_matrices(goa_chunks(ctx.input(GOA["train"])), train_ids, chosen)
    goa_test = goa_matrices(goa_chunks(ctx.input(GOA["test"])), test_ids, chosen)
    aspects = [ASPECTS[ontology.aspects[ontology.index[term]]] for term in chosen]
    layout = StackerLayout(
        terms=tuple(chosen),
        aspects=tuple(aspects),
        columns=tuple(int(column) for column in columns),
        level1_terms=len(terms),
        level1_digest=digest_of_lines(terms),
        channels=Channels(tuple(models), tuple(goa_train), config.cross_components),
        missing_rate=tuple(np.mean(list(missing.values()), axis=0).tolist()),
        edges=aspect_edges(ontology, chosen, aspects),
        folds=tuple(fitted),
        shape=StackerShape(config.hidden, config.embedding, config.layers, config.dropout, config.goa_dropout),
    )
    out_of_fold = read_level1(ctx, "oof", models, len(train_ids), len(terms))
    cross = {
        aspect: fit_cross(out_of_fold, splits.fit_rows, layout.other_columns(aspect), config.cross_components)
        for aspect in (layout.scored_aspects if config.cross_components else ())
    }
    return Prepared(
        layout,
        Proteins(out_of_fold, goa_train),
        Proteins(read_level1(ctx, "test_pred", models, len(test_ids), len(terms)), goa_test),
        len(test_ids),
        labels[:, columns],
        load_annotated(table, train_ids),
        splits,
        missing,
        frozenset(ontology.roots.values()),
        cross,
    )


def most_frequent(labels: sparse.csr_array, terms: list[str], count: int) -> IntArray:
    """Columns of the `count` terms with most proteins, most frequent first, ties by id."""
    frequency = np.asarray(labels.sum(axis=0), np.int64).ravel()
    order = np.lexsort((np.asarray(terms, dtype=np.str_), -frequency))
    return order[:count].astype(np.int64)


def aspect_edges(ontology: Ontology, terms: list[str], aspects: list[str]) -> dict[str, tuple[tuple[int, int], ...]]:
    """(child, parent) positions within each aspect that has terms, through terms left out."""
    edges = {}
    for aspect in ASPECTS:
        members = [term for term, of in zip(terms, aspects, strict=True) if of == aspect]
        if members:
            edges[aspect] = tuple(sorted(ontology.subset_edges(members)))
    return edges


def read_level1(ctx: StageContext, part: str, models: list[Any], proteins: int, terms: int) -> Matrices:
    """Memory-mapped level-1 logits by model.

    Raises:
        IntegrityError: a matrix has another shape than its proteins and terms.
    """
    matrices = {}
    for model in models:
        path = f"features/{part}_{model}.npy"
        matrix = ctx.read(path)
        if matrix.shape != (proteins, terms):
            raise IntegrityError(
                f"shape {matrix.shape}, not {(proteins, terms)}", where=path, remedy="Run stage_07_level1_preds again"
            )
        matrices[str(model)] = matrix
    return matrices


def goa_chunks(path: Path) -> Iterator[pd.DataFrame]:
    """The lines of a propagated GOA table, some at a time."""
    types = {"EntryID": str, "term": str, "channel": str, "score": np.float32}
    with pd.read_csv(path, sep="\t", dtype=types, chunksize=GOA_LINES) as reader:
        yield from reader


def fit_all(ctx: StageContext, fits: StackerFits) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """Fit every fold and aspect, or take it from the work folder.

    Returns:
        the tensors of `models/stacker.pth`, and fold -> aspect -> record of the fit.
    """
    make_fits(ctx, "fit", fits)
    tensors: dict[str, torch.Tensor] = cross_tensors(fits.prepared.cross)
    records: dict[str, dict[str, Any]] = {}
    for name in fits.names:
        fold, _, aspect = name.partition("/")
        fitted, records.setdefault(fold, {})[aspect] = fits.read(name)
        tensors |= {f"fold{name}/{key}": tensor for key, tensor in fitted.items()}
    return tensors, records


def stacking_context(ctx: StageContext, fold: int) -> StackingContext:
    """What the fits of one fold get."""
    return StackingContext(
        config=ctx.settings(StackerConfig),
        policy=ctx.settings(Level1Config).training,
        device=str(resolve_device(ctx.device)),
        threads=fit_threads(ctx),
        stage=ctx.stage.id,
        fold=fold,
        log=ctx.log,
        team=ctx.team,
    )


def tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A plain dict of tensors as `torch.save` writes it; equal tensors give equal bytes."""
    buffer = io.BytesIO()
    # Own storage each: a view would drag its whole base along, and two views would share one.
    torch.save({name: tensors[name].detach().clone().contiguous() for name in sorted(tensors)}, buffer)
    return buffer.getvalue()


def aspect_views(prepared: Prepared) -> dict[str, AspectData]:
    """`aspect_data` of every aspect that is scored."""
    return {aspect: aspect_data(prepared, aspect) for aspect in prepared.layout.scored_aspects}


def aspect_data(prepared: Prepared, aspect: str) -> AspectData:
    """The train proteins' part that concerns one aspect."""
    layout, of_aspect = prepared.layout, prepared.layout.of_aspect(aspect)
    cross = None
    if aspect in prepared.cross:
        cross = np.zeros((len(prepared.splits.folds), layout.channels.cross), np.float32)
        for _, block in row_blocks(prepared.splits.fit_rows):
            cross[block] = prepared.cross[aspect].of(prepared.train.at(block).level1)
    return AspectData(
        aspect=aspect,
        layout=layout,
        level1=prepared.train.level1,
        columns=np.asarray(layout.columns, np.int64)[of_aspect],
        goa={kind: matrix[:, of_aspect] for kind, matrix in prepared.train.goa.items()},
        labels=prepared.labels[:, of_aspect],
        annotated=prepared.annotated[:, ASPECTS.index(aspect)],
        folds=prepared.splits.folds,
        clusters=prepared.splits.clusters,
        missing={fold: flags[of_aspect] for fold, flags in prepared.missing.items()},
        cross=cross,
    )


def score_train(ctx: StageContext, prepared: Prepared, ensemble: StackerEnsemble) -> npt.NDArray[np.float16]:
    """Out-of-fold logits of the fit rows, mean logits of the validation rows."""
    splits, proteins = prepared.splits, prepared.train
    result = ctx.create_array(OUT_OF_FOLD, (len(splits.fit), len(prepared.layout.terms)), "float16")
    for fold in prepared.layout.folds:
        own = partial(ensemble.logits, fold=fold, missing=prepared.missing[fold])
        for rows, scores in _scored_blocks(ctx, f"fold{fold}", proteins, np.flatnonzero(splits.folds == fold), own):
            result[rows] = scores
    for rows, scores in _scored_blocks(ctx, "validation", proteins, splits.validation_rows, ensemble.logits):
        result[rows] = scores
    return result


def score_test(ctx: StageContext, prepared: Prepared, ensemble: StackerEnsemble) -> None:
    """Mean logits of the test proteins."""
    result = ctx.create_array(TEST, (prepared.tests, len(prepared.layout.terms)), "float16")
    for rows, scores in _scored_blocks(ctx, "test", prepared.test, np.arange(prepared.tests), ensemble.logits):
        result[rows] = scores


def _scored_blocks(
    ctx: StageContext, name: str, proteins: Proteins, rows: IntArray, score: Callable[[Matrices, Goa], FloatArray]
) -> Iterator[tuple[IntArray, npt.NDArray[np.float16]]]:
    """Rows and their logits, block by block; finished blocks are taken from the work folder."""
    with ctx.progress(f"score {name}", len(rows), "protein") as bar:
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            saved = ctx.work / f"scores_{name}_{start:09d}.npy"
            if not saved.exists():
                part = proteins.at(block)
                with atomic_path(saved) as temporary:
                    np.save(temporary, score(part.level1, part.goa).astype(np.float16), allow_pickle=False)
            yield block, np.load(saved, allow_pickle=False)
            bar.advance(len(block))


def _inputs(config: Config) -> tuple[str, ...]:
    scores = [f"features/{part}_{model}.npy" for model in config.level1.models for part in ("oof", "test_pred")]
    parsed = ("train_seq.feather", "test_seq.feather", "train_terms.parquet", "splits.feather", "ontology.json")
    return (*(f"parsed/{name}" for name in parsed), LEVEL1_TERMS, *GOA.values(), *scores)


STAGE = Stage(
    id="stage_08_stacker",
    version=2,
    run=run,
    inputs=_inputs,
    outputs=always(TOP_TERMS, OUT_OF_FOLD, TEST, WEIGHTS, RECORD),
    sections=(StackerConfig, Level1Config),
    fits=lambda ctx: StackerFits(ctx, prepare(ctx)),
)
