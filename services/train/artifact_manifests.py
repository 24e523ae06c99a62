"""Write the manifests of a finished run's folders: models/, features/, logs/."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared.config import Config
from shared.errors import GowhyError
from shared.manifest import Manifest
from shared.manifest.artifact import (
    ARTIFACT_MANIFEST,
    ArtifactManifest,
    read_artifact_manifest,
    write_artifact_manifest,
)

STACKER = "gcn"
# Config sections that decide what a folder holds.
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "models": ("data", "split", "homology", "transform", "level1", "stacker"),
    "features": ("data", "text", "tfidf", "embed", "goa"),
    "logs": ("device", "threads", "logs"),
}


def write_artifact_manifests(run_folder: Path, manifest: Manifest, config: Config) -> None:
    """Write every folder's `manifest.json`; an address where the same models were published is kept.

    Args:
        run_folder: holds the folders; one that is absent gets no manifest.
        manifest: the run's, complete.
        config: the run's.
    """
    values = config.model_dump(mode="json")
    for name, sections in SECTIONS.items():
        folder = run_folder / name
        if not folder.is_dir():
            continue
        record = ArtifactManifest(
            created_at=newest(manifest, name),
            model_name=manifest.run_id,
            base_model=base_model(manifest),
            training_config={section: values[section] for section in sections},
            metrics=METRICS[name](manifest, folder),
            size_mb=megabytes(folder),
            huggingface_url=None,
        )
        write_artifact_manifest(folder, record.model_copy(update={"huggingface_url": published(folder, record)}))


def missing_artifact_manifests(run_folder: Path) -> bool:
    """True when a folder of the run has no manifest."""
    return any(
        (run_folder / name).is_dir() and not (run_folder / name / ARTIFACT_MANIFEST).is_file() for name in SECTIONS
    )


def newest(manifest: Manifest, folder: str) -> str:
    """When the last stage that wrote into the folder finished; for logs, the last stage at all."""
    prefix = f"{folder}/"
    own = [
        stage.finished or ""
        for stage in manifest.stages
        if folder == "logs" or any(output.path.startswith(prefix) for output in stage.outputs)
    ]
    return max(own, default="") or manifest.created_at


def base_model(manifest: Manifest) -> str | None:
    """The sequence encoders and where their weights are from, as `esm2_tiny (random-init(0))`."""
    return "; ".join(f"{encoder.arch} ({encoder.weights})" for encoder in manifest.encoder) or None


def megabytes(folder: Path) -> float:
    """Size of a folder's files, but its manifest, in 10^6 bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / ARTIFACT_MANIFEST]
    return round(sum(path.stat().st_size for path in files) / 1e6, 6)


def published(folder: Path, record: ArtifactManifest) -> str | None:
    """The address that the folder's present manifest gives, if it is about the same content."""
    try:
        earlier = read_artifact_manifest(folder)
    except GowhyError:
        return None
    same = (earlier.created_at, earlier.size_mb) == (record.created_at, record.size_mb)
    return earlier.huggingface_url if same else None


def _model_metrics(manifest: Manifest, _folder: Path) -> dict[str, Any]:
    parts = {part: manifest.metrics.get(part, {}).get(STACKER, {}) for part in ("val", "test")}
    # Per-head and per-group monitors are in metrics.json; here stands what a reader compares models by.
    return {
        part: {key: value for key, value in figures.items() if not key.startswith(("pearson/", "mae/"))}
        for part, figures in parts.items()
    }


def _feature_metrics(manifest: Manifest, _folder: Path) -> dict[str, Any]:
    outputs = [output for stage in manifest.stages for output in stage.outputs]
    return {"rows": {o.path: o.rows for o in outputs if o.path.startswith("features/") and o.rows is not None}}


def _log_metrics(manifest: Manifest, folder: Path) -> dict[str, Any]:
    lines = {path.name: _lines(path) for path in sorted(folder.glob("*")) if path.suffix in (".jsonl", ".csv")}
    return {"lines": lines, "stage_seconds": stage_seconds(manifest)}


def stage_seconds(manifest: Manifest) -> dict[str, float]:
    """Stage id -> seconds between its start and its end, of finished stages."""
    return {
        stage.id: (_time(stage.finished) - _time(stage.started)).total_seconds()
        for stage in manifest.stages
        if stage.started and stage.finished
    }


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


METRICS: Mapping[str, Callable[[Manifest, Path], dict[str, Any]]] = {
    "models": _model_metrics,
    "features": _feature_metrics,
    "logs": _log_metrics,
}
