"""Stage 7: level-1 models, their out-of-fold logits and their logits of the test proteins.

A model that learns is fitted once per fold, on the other folds' rows, and scores its own fold; the
validation and the test proteins get the mean of the folds' logits. A vote is made once, over all rows
of the fit, and leaves a query's own fold out. A finished fit is kept in the work folder with its
logits, so that a killed run goes on with the next one; a model that an earlier run has fitted on the same with the
same settings is taken from it (models.reuse).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from services.train.checks import check_filled, require
from services.train.fits import fit_threads, make_fits
from services.train.models import MODELS
from services.train.models.base import FitContext, TrainingData
from services.train.models.inputs import (
    TRAINING_ARTEFACTS,
    Splits,
    feature_artefacts,
    load_features,
    load_splits,
    load_training_data,
)
from services.train.models.monitors import monitor
from services.train.models.reuse import fitted_with, model_outputs, own_config, own_features, take_over
from services.train.models.saved import WHOLE, join_parts, record_path, weights_path, write_logits, write_torch
from services.train.models.targets import positives, qualified_terms
from services.train.stage import Stage, StageContext, always
from services.train.team import ALONE
from shared.artefacts import JSON, NPZ, artefact, stored_arrays
from shared.atomic import atomic_path, write_json
from shared.config import Config, Level1Config, TransformConfig
from shared.models.base import LOGIT_LIMIT, Level1Model, VoteModel
from shared.models.features import Features, FloatArray, IntArray
from shared.models.members import MEMBERS
from shared.nn.device import resolve_device
from shared.nn.runtime import torch_threads
from shared.nn.transforms import row_blocks
from shared.ontology import ASPECTS

TERMS = "features/level1_terms.json"


def outputs(config: Config) -> tuple[str, ...]:
    """Term order, and per model: two matrices, arrays and a record."""
    per_model = [model_outputs(name) for name in model_names(config.level1)]
    return (TERMS, *(path for paths in per_model for path in paths))


def model_names(config: Level1Config) -> list[str]:
    """The configured models, each once."""
    return list(dict.fromkeys(config.models))


@dataclass(frozen=True, slots=True)
class Proteins:
    """What every fit of the stage reads."""

    data: TrainingData
    test: Features
    splits: Splits

    def seen_by(self, name: str) -> Proteins:
        """What one model may read of them."""
        data = replace(self.data, features=own_features(self.data.features, name))
        return Proteins(data, own_features(self.test, name), self.splits)


@dataclass(frozen=True, slots=True)
class Fit:
    """One fit and its folder: a model of one fold, or a vote (`fold` is None)."""

    name: str
    fold: int | None
    folder: Path

    @property
    def part(self) -> str:
        """Its name among the model's parts."""
        return WHOLE if self.fold is None else str(self.fold)

    @property
    def call(self) -> str:
        """What the leader of a team calls it."""
        return f"{self.name}/{self.part}"

    @property
    def title(self) -> str:
        """What a progress bar calls it."""
        return self.name if self.fold is None else f"{self.name} fold {self.fold}"

    @property
    def work(self) -> Path:
        """Files of the fit while it runs."""
        return self.folder / "fit"

    @property
    def record(self) -> Path:
        """Written last: where it is, everything else in the folder is whole."""
        return self.folder / "fit.json"

    def logits(self, which: str) -> npt.NDArray[np.float16]:
        """The fit's float16 logits of the rows `own` (out of fold), `val` or `test`, memory-mapped."""
        path = self.folder / f"{which}.npy"
        array: npt.NDArray[np.float16] = np.load(
            path, mmap_mode="r" if path.stat().st_size > 256 else None, allow_pickle=False
        )
        return array


def run(ctx: StageContext) -> None:
    """Fit, predict and write; see the module's docstring."""
    config = ctx.settings(Level1Config)
    with threadpool_limits(ctx.threads), torch_threads(ctx.threads):
        proteins = load_proteins(ctx, config)
        write_terms(ctx, config, proteins)
        names = model_names(config)
        to_fit = [name for name in names if not take_over(ctx, config, name)]
        fits = {name: list_fits(ctx, name, proteins.splits) for name in to_fit}
        for fit in (fit for name in to_fit for fit in fits[name] if fit.fold is None and not fit.record.is_file()):
            make_fit(ctx, config, fit, proteins)
        make_fits(ctx, "fits", Level1Fits(ctx, proteins, [fit for name in to_fit for fit in fits[name]]))
        with ctx.progress("matrices", len(names), "model") as bar:
            for name in names:
                if name in fits:
                    write_model(ctx, config, name, fits[name])
                    write_matrices(ctx, name, fits[name], proteins)
                log_quality(ctx, name, proteins)
                bar.advance()


class Level1Fits:
    """The fits of models that learn, named `<model>/<fold>`; see `Fits`. A vote uses all threads of its process."""

    unit, steps = "fit", 1

    def __init__(self, ctx: StageContext, proteins: Proteins, fits: Iterable[Fit]) -> None:
        self.ctx, self.proteins = replace(ctx, threads=fit_threads(ctx)), proteins
        self.config = ctx.settings(Level1Config)
        self.fits = {fit.call: fit for fit in fits if fit.fold is not None}
        # What reads more than vectors (residues, hits) takes longest: begun first, so that none waits long for the last.
        self.names = sorted(self.fits, key=lambda name: bool(MODELS[self.fits[name].name].modalities))

    def is_made(self, name: str) -> bool:
        """See `Fits`."""
        return self.fits[name].record.is_file()

    def make(self, name: str, step: Callable[[], None]) -> None:
        """See `Fits`."""
        with threadpool_limits(self.ctx.threads), torch_threads(self.ctx.threads):
            make_fit(self.ctx, self.config, self.fits[name], self.proteins)
        step()

    def share(self, name: str) -> None:
        """See `Fits`."""
        with threadpool_limits(self.ctx.threads), torch_threads(self.ctx.threads):
            fit_model(self.ctx, self.config, self.fits[name], self.proteins)


def all_fits(ctx: StageContext) -> Level1Fits:
    """Read what the fits read, for a process that shares or makes some."""
    config = ctx.settings(Level1Config)
    proteins = load_proteins(ctx, config)
    return Level1Fits(
        ctx, proteins, (fit for name in model_names(config) for fit in list_fits(ctx, name, proteins.splits))
    )


def load_proteins(ctx: StageContext, config: Level1Config) -> Proteins:
    """Read the inputs and choose the terms."""
    data = load_training_data(ctx.read)
    splits = load_splits(ctx.read, data.features.ids)
    data = choose_terms(data, splits.fit_rows, config)
    test = load_features(ctx.read, "test")
    require([check_filled(name, data.features.dense[name], test.dense[name]) for name in data.features.dense])
    return Proteins(data, test, splits)


def write_terms(ctx: StageContext, config: Level1Config, proteins: Proteins) -> None:
    """Write the order of the terms, and which of them each fold's models learn."""
    data, splits = proteins.data, proteins.splits
    fold_terms = {
        str(fold): qualified_terms(data, fit_rows_of(splits, fold), config.min_positives).tolist()
        for fold in splits.fold_numbers()
    }
    ctx.write(
        TERMS,
        {"terms": list(data.terms), "aspects": [ASPECTS[aspect] for aspect in data.aspects], "fold_terms": fold_terms},
    )


def choose_terms(data: TrainingData, rows: IntArray, config: Level1Config) -> TrainingData:
    """The `max_terms` most frequent terms among `rows` that have enough positives, by aspect, then frequency, then id."""
    counts = positives(data, rows)
    enough = [column for column in range(len(data.terms)) if counts[column] >= config.min_positives]
    frequent = sorted(enough, key=lambda column: (-counts[column], data.terms[column]))[: config.max_terms]
    columns = np.asarray(
        sorted(frequent, key=lambda column: (data.aspects[column], -counts[column], data.terms[column])), np.int64
    )
    return replace(
        data,
        terms=tuple(data.terms[column] for column in columns),
        aspects=data.aspects[columns],
        labels=data.labels[:, columns].tocsr(),
        information=data.information[columns],
    )


def fit_rows_of(splits: Splits, fold: int | None) -> IntArray:
    """Rows of the fit for one fold (the other folds), or all of them."""
    return splits.fit_rows if fold is None else np.flatnonzero(splits.fit & (splits.folds != fold))


def list_fits(ctx: StageContext, name: str, splits: Splits) -> list[Fit]:
    """The fits of one model."""
    folds: Sequence[int | None] = [None] if MODELS[name].votes else splits.fold_numbers()
    return [Fit(name, fold, ctx.work / "level1" / name / (WHOLE if fold is None else f"fold_{fold}")) for fold in folds]


def make_fit(ctx: StageContext, config: Level1Config, fit: Fit, proteins: Proteins) -> None:
    """Fit one model, predict with it, and keep both in the fit's folder; the record comes last."""
    proteins = proteins.seen_by(fit.name)
    data, splits = proteins.data, proteins.splits
    if MEMBERS[fit.name].is_torch:
        ctx.team.call(ctx.stage.id, fit.call)
    model = fit_model(ctx, config, fit, proteins)
    own = splits.fit_rows if fit.fold is None else np.flatnonzero(splits.folds == fit.fold)
    count = len(data.terms)
    scored: dict[str, tuple[IntArray, Callable[[IntArray], FloatArray]]] = {
        "own": (own, lambda rows: own_logits(model, data, rows)),
        "val": (splits.validation_rows, lambda rows: model.logits(data.features, rows)),
        "test": (np.arange(len(proteins.test)), lambda rows: model.logits(proteins.test, rows)),
    }
    with ctx.progress(f"{fit.title} scores", sum(len(rows) for rows, _ in scored.values()), "protein") as bar:
        for name, (rows, logits) in scored.items():
            write_logits(fit.folder / f"{name}.npy", logits, rows, count, bar.advance)
    with atomic_path(fit.folder / "arrays.npz") as temporary:
        NPZ.write(temporary, model.arrays())
    write_json(
        fit.record,
        {
            "architecture": model.architecture(),
            "proteins": len(fit_rows_of(splits, fit.fold)),
            "loss_held_out": held_out_loss(fit, own, data),
        },
    )
    shutil.rmtree(fit.work, ignore_errors=True)


def fit_model(ctx: StageContext, config: Level1Config, fit: Fit, proteins: Proteins) -> Level1Model:
    """Fit one model; what torch fits is the whole team's."""
    context = FitContext(
        config=own_config(config, fit.name),
        transform=ctx.settings(TransformConfig),
        device=str(resolve_device(ctx.device)),
        threads=ctx.threads,
        work=fit.work,
        log=ctx.log,
        stage=ctx.stage.id,
        fold=-1 if fit.fold is None else fit.fold,
        team=ctx.team if MEMBERS[fit.name].is_torch else ALONE,
        progress=lambda what, total, unit: ctx.progress(f"{fit.title} {what}", total, unit),
    )
    return MODELS[fit.name].fit(proteins.seen_by(fit.name).data, fit_rows_of(proteins.splits, fit.fold), context)


def own_logits(model: Level1Model, data: TrainingData, rows: IntArray) -> FloatArray:
    """Out-of-fold logits of rows that the model was not fitted on; a vote leaves out the queries' folds itself."""
    return (
        model.out_of_fold_logits(data.features, rows, data.folds)
        if isinstance(model, VoteModel)
        else model.logits(data.features, rows)
    )


def held_out_loss(fit: Fit, rows: IntArray, data: TrainingData) -> float | None:
    """Mean cross-entropy of the out-of-fold logits over known entries; None where nothing is known."""
    logits, total, count = fit.logits("own"), 0.0, 0
    for place, block in row_blocks(rows):
        values = np.asarray(logits[place], np.float64)
        losses = np.logaddexp(0.0, values) - data.labels[block].toarray() * values
        known = data.annotated[block][:, data.aspects]
        total, count = total + float(losses[known].sum()), count + int(known.sum())
    return total / count if count else None


def write_model(ctx: StageContext, config: Level1Config, name: str, fits: Sequence[Fit]) -> None:
    """Gather the arrays of all parts into the model's file, and write its record."""
    files = {fit.part: fit.folder / "arrays.npz" for fit in fits}
    if MEMBERS[name].is_torch:
        write_torch(ctx.output(weights_path(name)), join_parts({part: NPZ.read(path) for part, path in files.items()}))
    else:
        ctx.write(weights_path(name), join_parts({part: stored_arrays(path) for part, path in files.items()}))
    options: dict[str, Any] = {
        **getattr(config, MODELS[name].settings).model_dump(mode="json"),
        "training": config.training.model_dump(mode="json"),
    }
    parts = {fit.part: read_record(fit) for fit in fits}
    ctx.write(
        record_path(name),
        {
            "name": name,
            "kind": MEMBERS[name].kind,
            "votes": MODELS[name].votes,
            "options": options,
            "settings": fitted_with(config, name),
            "parts": parts,
        },
    )


def read_record(fit: Fit) -> Any:
    """The record of a finished fit."""
    return JSON.read(fit.record)


def write_matrices(ctx: StageContext, name: str, fits: Sequence[Fit], proteins: Proteins) -> None:
    """Write the model's two matrices, row block by row block."""
    data, splits = proteins.data, proteins.splits
    train = ctx.create_array(f"features/oof_{name}.npy", (len(data.features), len(data.terms)), "float16")
    for fit in fits:
        rows = splits.fit_rows if fit.fold is None else np.flatnonzero(splits.folds == fit.fold)
        for place, block in row_blocks(rows):
            train[block] = fit.logits("own")[place]
    for place, values in mean_logits(fits, "val"):
        train[splits.validation_rows[place]] = values
    test = ctx.create_array(f"features/test_pred_{name}.npy", (len(proteins.test), len(data.terms)), "float16")
    for place, values in mean_logits(fits, "test"):
        test[place] = values


def log_quality(ctx: StageContext, name: str, proteins: Proteins) -> None:
    """Log how well the model's scores of held-out rows are met."""
    data, splits = proteins.data, proteins.splits
    path = f"features/oof_{name}.npy"
    train = artefact(path).codec.read(ctx.output(path))
    ctx.log.step(
        monitor(train, data, splits, ctx.settings(Level1Config).min_taxon_proteins), stage=ctx.stage.id, model=name
    )


def mean_logits(fits: Sequence[Fit], which: str) -> Iterator[tuple[slice, npt.NDArray[np.float16]]]:
    """Mean of the parts' logits, in blocks of rows, with each block's place."""
    matrices = [fit.logits(which) for fit in fits]
    for place, _ in row_blocks(np.arange(len(matrices[0]))):
        mean = np.mean([np.asarray(matrix[place], np.float32) for matrix in matrices], axis=0, dtype=np.float32)
        yield place, np.clip(mean, -LOGIT_LIMIT, LOGIT_LIMIT).astype(np.float16)


STAGE = Stage(
    id="stage_07_level1_preds",
    version=1,
    run=run,
    inputs=always(*feature_artefacts("train"), *feature_artefacts("test"), *TRAINING_ARTEFACTS),
    outputs=outputs,
    sections=(Level1Config, TransformConfig),
    fits=all_fits,
)
