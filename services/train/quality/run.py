"""The quality document of a run, with the ablations that were run beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.train.evaluation import ProteinCurves
from services.train.quality.bootstrap import difference, resamples
from services.train.quality.measure import measure, validation_curves
from shared.errors import DataError
from shared.manifest import load_manifest


def quality_document(
    manifest_path: Path, baselines: Mapping[str, Path], ablations: Mapping[str, Path], replicates: int
) -> dict[str, Any]:
    """What `measure` gives, and per ablation the stacker's weighted Fmax on the validation proteins and its change.

    Args:
        manifest_path: of the full run.
        baselines: see `measure`.
        ablations: name of what was left out -> manifest of the run without it.
        replicates: see `measure`.

    Raises:
        DataError: an ablation was measured on other validation proteins.
    """
    document = measure(manifest_path, baselines, replicates)
    whole = validation_curves(manifest_path) if ablations else {}
    document["ablations"] = {}
    for name, path in ablations.items():
        if _split(path) != _split(manifest_path):
            remedy = "Run both with the same data and split settings"
            raise DataError("the ablation has other validation proteins", where=f"--ablation {name}", remedy=remedy)
        document["ablations"][name] = changes(validation_curves(path), whole, replicates)
    return document


def changes(
    part: Mapping[str, ProteinCurves], whole: Mapping[str, ProteinCurves], replicates: int
) -> dict[str, dict[str, Any]]:
    """Per aspect the weighted Fmax of `part`, and its `Difference` to that of `whole`; None where nothing is known."""
    found: dict[str, dict[str, Any]] = {}
    for aspect, curves in part.items():
        proteins = len(curves.rows)
        change = difference(curves, whole[aspect], resamples(proteins, replicates)).to_json() if proteins else None
        found[aspect] = {"value": float(curves.fmax()[0]) if proteins else None, "change": change}
    return found


def _split(manifest_path: Path) -> Any:
    load_manifest(manifest_path)
    return json.loads((manifest_path.parent / "parsed/splits.json").read_bytes())["ids_sha256"]
