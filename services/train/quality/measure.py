"""Measure a finished run: every model on the validation and on the test proteins, with intervals and by group."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from services.train.evaluation import ProteinCurves, protein_curves
from services.train.evaluation_files import read_predictions
from services.train.quality.bootstrap import REPLICATES, difference, interval, resamples
from services.train.quality.groups import bands, highest_identity, knowledge
from services.train.quality.reliability import floor_share, reliability
from services.train.stage import StageContext
from services.train.stages import stage_09_submission as submission
from services.train.stages.stage_09_submission import NAIVE, STACKER, Model, Part, Prepared
from shared.artefacts import artefact
from shared.config import Config
from shared.errors import MissingInput
from shared.logs import Logger
from shared.manifest import Manifest, load_manifest
from shared.models.features import IntArray
from shared.ontology import ASPECTS, propagate_labels, propagate_max
from shared.progress import progress

QUALITY = "quality"  # below the run folder
LEAST_SCORE = 0.01
PARTS: Mapping[str, Part] = {"val": "train", "test": "test"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One part's proteins and every model's own figures of them."""

    rows: IntArray
    scores: Mapping[str, sparse.csr_array]  # model -> [row, ontology term]
    curves: Mapping[str, Mapping[str, ProteinCurves]] = field(repr=False)  # model -> aspect
    truth: sparse.csr_array = field(repr=False)


def measure(manifest_path: Path, baselines: Mapping[str, Path], replicates: int = REPLICATES) -> dict[str, Any]:
    """Everything that the quality page shows, as plain values.

    Args:
        manifest_path: of a complete run; verified first.
        baselines: name -> prediction file of the run's test proteins (protein, term, score), scored beside.
        replicates: of the bootstrap.

    Raises:
        IntegrityError: the run is incomplete or not what its manifest says.
        MissingInput: a baseline file is not there.
        DataError: a baseline file is no prediction file.
    """
    manifest = load_manifest(manifest_path)
    ctx = reading_context(manifest, manifest_path.parent)
    prepared = submission.prepare(ctx)
    metrics = json.loads((manifest_path.parent / submission.METRICS).read_bytes())
    document: dict[str, Any] = {
        "run_id": manifest.run_id,
        "dataset": manifest.dataset.model_dump(mode="json"),
        "encoders": [encoder.model_dump(mode="json") for encoder in manifest.encoder],
        "model_sha256": None if manifest.model is None else manifest.model.sha256,
        "replicates": replicates,
        "splits": _read(manifest_path.parent, "parsed/splits.json"),
        "information_accretion": _read(manifest_path.parent, "parsed/dataset_manifest.json").get("ia_source"),
        "checks": metrics["checks"],
        "parts": {},
    }
    for label, part in PARTS.items():
        rows = _rows(prepared, part)
        if not len(rows):
            continue
        measured = _measured(prepared, part, rows, baselines if label == "test" else {})
        document["parts"][label] = _tables(prepared, part, measured, replicates, metrics.get(label, {}))
        if label == "test":
            known = _known_aspects(manifest_path.parent, prepared)
            document["parts"][label]["knowledge"] = _by_knowledge(measured, [known[row] for row in rows])
            document["parts"][label]["share_with_a_term"] = _share_with_a_term(prepared)
    return document


def validation_curves(manifest_path: Path) -> dict[str, ProteinCurves]:
    """The stacker's own figures of the validation proteins, by aspect; see `protein_curves`."""
    manifest = load_manifest(manifest_path)
    prepared = submission.prepare(reading_context(manifest, manifest_path.parent))
    rows = _rows(prepared, PARTS["val"])
    scores = _scores(prepared, prepared.stacker, PARTS["val"], rows)
    return protein_curves(scores, prepared.parts["train"].truth[rows], prepared.ontology, prepared.information)


def reading_context(manifest: Manifest, run_folder: Path) -> StageContext:
    """Stage 9's view of a finished run, to read; nothing is written through it."""
    config = Config.model_validate_json((run_folder / manifest.config_resolved_path).read_bytes())
    stage = submission.STAGE
    nowhere = run_folder / "read-only"
    return StageContext(
        stage=stage,
        sections=stage.settings(config),
        files={},
        run_folder=run_folder,
        staging=nowhere,
        work=nowhere,
        cache=nowhere,
        device="cpu",
        threads=config.threads,
        input_paths=frozenset(stage.inputs(config)),
        output_paths=frozenset(),
        log=Logger(None, quiet=True),
    )


def _read(run_folder: Path, path: str) -> Any:
    return artefact(path).codec.read(run_folder / path)


def _rows(prepared: Prepared, part: Part) -> IntArray:
    if part == "train":
        return prepared.splits.validation_rows
    return np.flatnonzero(np.diff(prepared.parts["test"].truth.indptr))


def _measured(prepared: Prepared, part: Part, rows: IntArray, baselines: Mapping[str, Path]) -> Measured:
    proteins, ontology = prepared.parts[part], prepared.ontology
    truth = proteins.truth[rows]
    scores: dict[str, sparse.csr_array] = {}
    models = (prepared.stacker, *prepared.level1)
    with progress(f"score {part}", len(models), "model") as bar:
        for model in models:
            scores[model.name] = _scores(prepared, model, part, rows)
            bar.advance()
    scores[NAIVE] = submission.naive(prepared, len(rows))
    ids = {proteins.ids[row]: place for place, row in enumerate(rows)}
    for name, path in baselines.items():
        if not path.is_file():
            raise MissingInput(f"no baseline file {path}", where="--baseline", remedy="Give NAME=FILE")
        scores[name] = read_predictions(path, ids, ontology)
    curves = {name: protein_curves(of, truth, ontology, prepared.information) for name, of in scores.items()}
    return Measured(rows, scores, curves, truth)


def _scores(prepared: Prepared, model: Model, part: Part, rows: IntArray) -> sparse.csr_array:
    blocks = [submission.score(prepared, model, part, block) for block in submission.blocks(rows)]
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _tables(
    prepared: Prepared, part: Part, measured: Measured, replicates: int, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    ours = measured.curves[STACKER]
    document: dict[str, Any] = {
        "proteins": len(measured.rows),
        "annotated": {aspect: len(ours[aspect].rows) for aspect in ASPECTS},
    }
    drawn = {a: resamples(len(ours[a].rows), replicates) for a in ASPECTS if len(ours[a].rows)}
    with progress(f"bootstrap {part}", len(measured.curves), "model") as bar:
        fmax, gaps = {}, {}
        for name, curves in measured.curves.items():
            fmax[name] = {aspect: interval(curves[aspect], drawn[aspect]).to_json() for aspect in drawn}
            if name != STACKER:
                gaps[name] = {a: difference(ours[a], curves[a], drawn[a]).to_json() for a in drawn}
            bar.advance()
    document |= {"fmax_w": fmax, "stacker_minus": gaps, "metrics": metrics}
    document["identity"] = _by_identity(prepared, part, measured)
    scores = propagate_max(measured.scores[STACKER], prepared.ontology)
    found = reliability(scores, propagate_labels(measured.truth, prepared.ontology), prepared.ontology)
    document["reliability"] = {aspect: of.to_json() for aspect, of in found.items()}
    return document


def _by_identity(prepared: Prepared, part: Part, measured: Measured) -> dict[str, Any]:
    """Weighted Fmax within bands of identity to the closest protein that was fitted on."""
    lengths = prepared.parts[part].lengths
    fit = prepared.splits.fit
    residues = int(prepared.parts["train"].lengths[fit].sum())
    identity = highest_identity(prepared.parts[part].hits, lengths, fit, residues)[measured.rows]
    return {name: _group(measured, mask) for name, mask in bands(identity).items()}


def _by_knowledge(measured: Measured, known: list[frozenset[str]]) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for aspect in ASPECTS:
        for name, mask in knowledge(aspect, known).items():
            tables.setdefault(name, {})[aspect] = _group(measured, mask)[aspect]
    return tables


def _group(measured: Measured, mask: Any) -> dict[str, Any]:
    """Aspect -> proteins and each model's weighted Fmax in a group; None where the group is empty."""
    table: dict[str, Any] = {}
    for aspect in ASPECTS:
        parts = {name: curves[aspect].of(mask) for name, curves in measured.curves.items()}
        count = len(parts[STACKER].rows)
        table[aspect] = {
            "proteins": count,
            "fmax_w": {name: float(part.fmax()[0]) if count else None for name, part in parts.items()},
        }
    return table


def _known_aspects(run_folder: Path, prepared: Prepared) -> list[frozenset[str]]:
    """The aspects in which each test protein was annotated before."""
    table = _read(run_folder, "parsed/known_terms.parquet")
    found: dict[str, set[str]] = {}
    for protein, aspect in table[["id", "aspect"]].drop_duplicates().itertuples(index=False):
        found.setdefault(protein, set()).add(aspect)
    return [frozenset(found.get(protein, ())) for protein in prepared.parts["test"].ids]


def _share_with_a_term(prepared: Prepared) -> dict[str, float]:
    """Per aspect, the share of all test proteins with a non-root term of at least LEAST_SCORE."""
    ids = np.arange(len(prepared.parts["test"].ids))
    shares: dict[str, float] = dict.fromkeys(ASPECTS, 0.0)
    for block in submission.blocks(ids):
        scores = submission.score(prepared, prepared.stacker, "test", block)
        for aspect, share in floor_share(scores, prepared.ontology, LEAST_SCORE).items():
            shares[aspect] += share * len(block) / len(ids)
    return shares


__all__ = ["QUALITY", "measure", "validation_curves"]
