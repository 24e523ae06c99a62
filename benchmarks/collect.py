"""One line of evidence for `benchmarks/results/`: what a finished run was, how good and how fast.

python -m benchmarks.collect out/latest/manifest.json > benchmarks/results/demo.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from services.train.artifact_manifests import stage_seconds
from shared.manifest import load_manifest

MODELS = ("gcn", "naive")
KEYS = ("fmax", "fmax_w", "smin", "aupr", "coverage", "ece")


def collect(manifest_path: Path) -> dict[str, Any]:
    """Figures of the stacker and of the naive baseline, stage times, and what they hold for."""
    manifest = load_manifest(manifest_path)
    metrics: dict[str, Any] = {}
    for part in ("val", "test"):
        models = manifest.metrics.get(part) or {}
        metrics[part] = {
            name: {key: rounded(value) for key, value in models[name].items() if key.partition("/")[0] in KEYS}
            for name in MODELS
            if name in models
        }
    return {
        "run_id": manifest.run_id,
        "finished": manifest.created_at,
        "commit": manifest.git.commit,
        "is_dirty": manifest.git.is_dirty,
        "dataset": {"name": manifest.dataset.name, "version": manifest.dataset.version},
        "proteins": {"train": manifest.checks.train_rows, "test": manifest.checks.test_rows},
        "encoders": [f"{encoder.arch} ({encoder.weights})" for encoder in manifest.encoder],
        "threads": manifest.seeds.get("threads"),
        "stage_seconds": stage_seconds(manifest),
        "metrics": metrics,
    }


def rounded(value: float | None) -> float | None:
    """Four decimals: more would only show noise between machines."""
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    print(json.dumps(collect(Path(sys.argv[1])), indent=2, sort_keys=True))
