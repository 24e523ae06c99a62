"""Stage 9: the submission, how good every model is on validation and test proteins, and the model bundle.

All models go the same way: calibration (level-1 models have none), homology votes for terms that the
model does not know, propagation, rounding, the best terms of each protein. So the figures of the
stacker on test proteins are those of `submission.tsv` itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from services.train.bundle import BUNDLE_SECTIONS, bundle_inputs, bundle_outputs, write_bundle
from services.train.checks import Judged, check_order, chosen_rows, require
from services.train.evaluation import Evaluation, Metrics, metric_keys
from services.train.evaluation_monitors import CalibrationCounts, Monitors
from services.train.evaluation_report import figures
from services.train.models.inputs import Splits, load_labels, load_splits
from services.train.stage import Stage, StageContext
from services.train.submission import submitted, validate_submission, write_submission
from shared.config import Config, EvaluationConfig, HomologyVoteConfig, Level1Config, SubmissionConfig
from shared.errors import IntegrityError
from shared.models.features import FloatArray, Hits, IntArray
from shared.models.scoring import IDENTITY, Calibration, assemble_scores, term_columns, vote_all_terms
from shared.ontology import ASPECTS, Ontology, propagate_max

Part = Literal["train", "test"]

STACKER, NAIVE = "gcn", "naive"
TOP_TERMS, LEVEL1_TERMS, RECORD = "features/top_terms_1500.json", "features/level1_terms.json", "models/stacker.json"
PREFIX: Mapping[Part, str] = {"train": "features/oof_", "test": "features/test_pred_"}
SUBMISSION, METRICS = "submission.tsv", "metrics.json"
FIGURES = {aspect: f"figures/precision_recall_{aspect}.png" for aspect in ASPECTS}
BLOCK_ROWS = 256  # what is held of a block is over the whole ontology
BASELINES_NOTE = (
    "Every model scores the same proteins in the same way: calibration (the stacker's only), homology votes for terms "
    "outside its list, propagation, rounding, best terms. naive gives every protein each term's frequency among the "
    "fit proteins annotated in its aspect. Validation proteins entered no fit."
)


@dataclass(frozen=True, slots=True)
class Model:
    """Something that scores proteins: logits of train and test proteins [protein, len(terms)]."""

    name: str
    terms: tuple[str, ...]
    calibration: Calibration
    logits: Mapping[Part, npt.NDArray[np.floating]]


@dataclass(frozen=True, slots=True)
class Proteins:
    """One part's proteins, with what is known of them; rows follow `parsed/<part>_seq.feather`."""

    ids: Sequence[str]
    hits: Hits
    truth: sparse.csr_array  # boolean [protein, ontology term], propagated
    known: sparse.csr_array | None  # the same of what was known before, where it is merged into the scores
    taxa: IntArray
    lengths: IntArray  # residues


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that the stage reads."""

    ontology: Ontology
    information: FloatArray  # [ontology term], bits
    priors: FloatArray  # [ontology term]
    parts: Mapping[Part, Proteins]
    splits: Splits
    stacker: Model
    level1: tuple[Model, ...]
    settings: SubmissionConfig
    vote: HomologyVoteConfig


def run(ctx: StageContext) -> None:
    """Write the submission, check it, and measure."""
    prepared = prepare(ctx)
    checks = [check_order(model.name, *judged(prepared, model)) for model in (prepared.stacker, *prepared.level1)]
    require(checks)
    path, test_ids = ctx.output(SUBMISSION), prepared.parts["test"].ids
    write_submission(path, _submission_blocks(ctx, prepared), prepared.ontology, prepared.settings.significant_figures)
    with ctx.progress("check of the submission", len(test_ids), "protein") as bar:
        most = prepared.settings.max_terms_per_protein
        counts: dict[str, Any] = {
            "submission": validate_submission(path, test_ids, prepared.ontology, most, bar.advance)
        }
    ctx.log.event("submission written", **counts["submission"])
    document: dict[str, Any] = {"baselines_note": BASELINES_NOTE, "counts": counts, "thresholds": {}}
    document["checks"] = {check.name: check.found for check in checks}
    compared: dict[str, tuple[Part, IntArray]] = {
        "val": ("train", prepared.splits.validation_rows),
        "test": ("test", np.flatnonzero(np.diff(prepared.parts["test"].truth.indptr))),
    }
    for label, (part, rows) in compared.items():
        measured = compare(ctx, prepared, part, rows, label)
        document[label] = {name: keys for name, (keys, _) in measured.items()}
        document["thresholds"][label] = {name: _thresholds(metrics) for name, (_, metrics) in measured.items()}
        counts[label] = {"proteins": len(rows), "annotated": _annotated(measured)}
        if label == "val":
            figures({a: ctx.output(p) for a, p in FIGURES.items()}, {name: m for name, (_, m) in measured.items()})
    ctx.write(METRICS, document)
    write_bundle(ctx)


def prepare(ctx: StageContext) -> Prepared:
    """Read the inputs and check that they belong together."""
    ontology = Ontology.from_json(ctx.read("parsed/ontology.json"))
    priors = ctx.read("parsed/term_priors.parquet").set_index("term").reindex(list(ontology.terms))
    merged = "parsed/known_terms.parquet" if ctx.settings(SubmissionConfig).known_terms == "merge" else None
    parts: dict[Part, Proteins] = {
        "train": _proteins(ctx, "train", "parsed/train_terms.parquet", ontology),
        "test": _proteins(ctx, "test", "parsed/test_truth.parquet", ontology, merged),
    }
    chosen, level1 = ctx.read(TOP_TERMS)["terms"], ctx.read(LEVEL1_TERMS)["terms"]
    names = sorted(
        path.removeprefix(PREFIX["train"]).removesuffix(".npy")
        for path in ctx.input_paths
        if path.startswith(PREFIX["train"])
    )
    return Prepared(
        ontology=ontology,
        information=priors["ia"].fillna(0.0).to_numpy(np.float32),
        priors=priors["prior"].fillna(0.0).to_numpy(np.float32),
        parts=parts,
        splits=load_splits(ctx.read, parts["train"].ids),
        stacker=_model(ctx, STACKER, chosen, ctx.read(RECORD)["calibration"], parts),
        level1=tuple(_model(ctx, name, level1, IDENTITY, parts) for name in names if name != STACKER),
        settings=ctx.settings(SubmissionConfig),
        vote=ctx.settings(Level1Config).homology,
    )


def _proteins(ctx: StageContext, part: Part, truth: str, ontology: Ontology, merged: str | None = None) -> Proteins:
    sequences = ctx.read(f"parsed/{part}_seq.feather")
    ids = sequences["id"].tolist()
    taxa = ctx.read(f"parsed/{part}_taxa.feather").set_index("id")["taxon_id"].reindex(ids).fillna(0)
    labels = load_labels(ctx.read(truth), ids, ontology.terms, where=truth).astype(np.bool_)
    known = load_labels(ctx.read(merged), ids, ontology.terms, where=merged) if merged else None
    hits = Hits.from_frame(ctx.read(f"parsed/homology_{part}.feather"), len(ids))
    lengths = sequences["sequence"].str.len().to_numpy(np.int64)
    return Proteins(ids, hits, labels, known, taxa.to_numpy(np.int64), lengths)


def _model(
    ctx: StageContext, name: str, terms: Sequence[str], calibration: Calibration, parts: Mapping[Part, Proteins]
) -> Model:
    logits: dict[Part, npt.NDArray[np.floating]] = {}
    for part, proteins in parts.items():
        path = f"{PREFIX[part]}{name}.npy"
        logits[part] = ctx.read(path)
        if logits[part].shape != (len(proteins.ids), len(terms)):
            what = f"shape {logits[part].shape} does not fit {len(proteins.ids)} proteins and {len(terms)} terms"
            raise IntegrityError(what, where=path, remedy="Run its stage again")
    return Model(name, tuple(terms), calibration, logits)


def judged(prepared: Prepared, model: Model) -> tuple[FloatArray, Judged]:
    """Logits of some proteins that the model was not fitted on, and their labels of its terms."""
    splits = prepared.splits
    rows = chosen_rows(splits.validation_rows if len(splits.validation_rows) else splits.fit_rows)
    columns = term_columns(model.terms, prepared.ontology)
    truth = prepared.parts["train"].truth[rows]
    annotated = np.stack(
        [np.asarray(truth[:, prepared.ontology.aspects == number].sum(axis=1)) > 0 for number in range(len(ASPECTS))], 1
    )
    known = annotated[:, prepared.ontology.aspects[columns]]
    logits = np.asarray(model.logits["train"][rows], np.float32)
    return logits, Judged(truth[:, columns].toarray(), known, model.terms)


def score(prepared: Prepared, model: Model, part: Part, rows: IntArray) -> sparse.csr_array:
    """A model's scores of some proteins as they would be submitted, float64 CSR [len(rows), ontology term]."""
    ontology, settings = prepared.ontology, prepared.settings
    rare = None
    if settings.rare_terms == "homology":
        outside = np.ones(len(ontology), bool)
        outside[term_columns(model.terms, ontology)] = False
        rare = vote_all_terms(
            prepared.parts[part].hits,
            prepared.parts["train"].truth,
            prepared.splits.fit,
            rows,
            ontology,
            columns=outside,
            confidence=settings.rare_confidence,
            identity_power=prepared.vote.identity_power,
            prior_weight=prepared.vote.prior_weight,
        )
    logits = np.asarray(model.logits[part][rows], np.float32)
    scores = assemble_scores(
        logits, model.terms, model.calibration, ontology, rare, descendant_share=settings.descendant_share
    )
    known = prepared.parts[part].known
    # Known terms come with their ancestors, so that 1 nowhere exceeds a parent's score.
    return submitted(scores if known is None else scores.maximum(known[rows]), settings)


def blocks(rows: IntArray) -> Iterator[IntArray]:
    """Rows in pieces that fit in memory; a piece never changes a score."""
    for start in range(0, len(rows), BLOCK_ROWS):
        yield rows[start : start + BLOCK_ROWS]


def _submission_blocks(ctx: StageContext, prepared: Prepared) -> Iterator[tuple[list[str], sparse.csr_array]]:
    ids = prepared.parts["test"].ids
    with ctx.progress("submission", len(ids), "protein") as bar:
        for rows in blocks(np.arange(len(ids))):
            yield [ids[row] for row in rows], score(prepared, prepared.stacker, "test", rows)
            bar.advance(len(rows))


def naive(prepared: Prepared, count: int) -> sparse.csr_array:
    """Every protein gets each term's frequency among the fit proteins."""
    one = propagate_max(sparse.csr_array(prepared.priors[None, :]), prepared.ontology)
    row = submitted(one, prepared.settings)
    pointer = np.arange(count + 1) * row.nnz
    shape = (count, len(prepared.ontology))
    return sparse.csr_array((np.tile(row.data, count), np.tile(row.indices, count), pointer), shape=shape)


def compare(
    ctx: StageContext, prepared: Prepared, part: Part, rows: IntArray, label: str
) -> dict[str, tuple[dict[str, float | None], dict[str, Metrics]]]:
    """Every model's figures on the same proteins: by key, and as metrics with curves. Empty without proteins."""
    if not len(rows):
        return {}
    proteins, config, ontology = prepared.parts[part], ctx.settings(EvaluationConfig), prepared.ontology
    columns = np.sort(term_columns(prepared.stacker.terms, ontology))
    results = {}
    models = (prepared.stacker, *prepared.level1)
    with ctx.progress(f"evaluate {label}", (len(models) + 1) * len(rows), "score") as bar:
        for name, model in [*((model.name, model) for model in models), (NAIVE, None)]:
            evaluation = Evaluation(
                ontology,
                prepared.information,
                propagation=config.propagation,
                no_orphans=config.no_orphans,
                threshold_step=config.threshold_step,
            )
            calibration = CalibrationCounts(ontology, no_orphans=config.no_orphans)
            watched = Monitors(ontology, columns) if name == STACKER else None
            for block in blocks(rows):
                truth = proteins.truth[block]
                scores = naive(prepared, len(block)) if model is None else score(prepared, model, part, block)
                evaluation.add(scores, truth)
                calibration.add(scores, truth)
                if watched is not None:
                    watched.add(scores, truth, proteins.taxa[block])
                bar.advance(len(block))
            metrics = evaluation.metrics()
            errors = {f"ece/{aspect}": error for aspect, error in calibration.errors().items()}
            keys = {**metric_keys(metrics), **errors, **(watched.keys() if watched is not None else {})}
            ctx.log.step(keys, stage=ctx.stage.id, model=name, part=label)
            results[name] = (keys, metrics)
    return results


def _thresholds(metrics: Mapping[str, Metrics]) -> dict[str, float | None]:
    """Where each best F is reached; for people who want a yes or a no."""
    return {
        **{f"fmax/{aspect}": of.fmax_threshold for aspect, of in metrics.items()},
        **{f"fmax_w/{aspect}": of.fmax_w_threshold for aspect, of in metrics.items()},
    }


def _annotated(measured: Mapping[str, tuple[dict[str, float | None], dict[str, Metrics]]]) -> dict[str, int]:
    if NAIVE not in measured:
        return dict.fromkeys(ASPECTS, 0)
    return {aspect: of.n for aspect, of in measured[NAIVE][1].items()}


def _inputs(config: Config) -> tuple[str, ...]:
    parsed = [f"parsed/{part}_{table}.feather" for part in ("train", "test") for table in ("seq", "taxa")]
    homology = [f"parsed/homology_{part}.feather" for part in ("train", "test")]
    tables = ("train_terms", "test_truth", "known_terms", "term_priors")
    others = (*(f"{table}.parquet" for table in tables), "ontology.json", "splits.feather")
    logits = [f"{prefix}{model}.npy" for model in (STACKER, *config.level1.models) for prefix in PREFIX.values()]
    own = (*parsed, *homology, *(f"parsed/{name}" for name in others), TOP_TERMS, LEVEL1_TERMS, RECORD, *logits)
    return tuple(dict.fromkeys((*own, *bundle_inputs(config))))


def _outputs(config: Config) -> tuple[str, ...]:
    return (SUBMISSION, METRICS, *FIGURES.values(), *bundle_outputs(config))


STAGE = Stage(
    id="stage_09_submission",
    version=4,
    run=run,
    inputs=_inputs,
    outputs=_outputs,
    sections=(SubmissionConfig, EvaluationConfig, *BUNDLE_SECTIONS),
)
