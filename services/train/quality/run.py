"""The quality document of a run, with the ablations that were run beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.train.quality.measure import measure
from services.train.stages.stage_09_submission import METRICS, STACKER
from shared.errors import DataError
from shared.manifest import load_manifest
from shared.ontology import ASPECTS


def quality_document(
    manifest_path: Path, baselines: Mapping[str, Path], ablations: Mapping[str, Path], replicates: int
) -> dict[str, Any]:
    """What `measure` gives, and per ablation the stacker's weighted Fmax on the validation proteins.

    Args:
        manifest_path: of the full run.
        baselines: see `measure`.
        ablations: name of what was left out -> manifest of the run without it.
        replicates: see `measure`.

    Raises:
        DataError: an ablation was measured on other validation proteins.
    """
    document = measure(manifest_path, baselines, replicates)
    document["ablations"] = {name: _ablation(manifest_path, path, name) for name, path in ablations.items()}
    return document


def _ablation(full: Path, without: Path, name: str) -> dict[str, Any]:
    whole, part = (_validation(path) for path in (full, without))
    if whole["split"] != part["split"]:
        remedy = "Run both with the same data and split settings"
        raise DataError("the ablation has other validation proteins", where=f"--ablation {name}", remedy=remedy)
    figures = {aspect: (part["fmax_w"][aspect], whole["fmax_w"][aspect]) for aspect in ASPECTS}
    return {
        aspect: {"value": a, "change": None if a is None or b is None else a - b} for aspect, (a, b) in figures.items()
    }


def _validation(path: Path) -> dict[str, Any]:
    load_manifest(path)
    found = json.loads((path.parent / METRICS).read_bytes()).get("val", {}).get(STACKER, {})
    split = json.loads((path.parent / "parsed/splits.json").read_bytes())["ids_sha256"]
    return {"fmax_w": {aspect: found.get(f"fmax_w/{aspect}") for aspect in ASPECTS}, "split": split}
