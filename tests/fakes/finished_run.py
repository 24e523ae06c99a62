"""A small complete run folder: real manifest, bundle manifest and files, but arbitrary bytes for weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.config import Config
from shared.digests import sha256_file
from shared.manifest import Manifest, load_manifest

KEYS = ("fmax", "fmax_w", "smin", "aupr", "coverage", "ece")
STAGES: dict[str, tuple[int, dict[str, tuple[int, int | None]]]] = {
    # id -> seconds, path -> (bytes, rows)
    "stage_01_parsed": (4, {"parsed/train_seq.feather": (900, 40), "parsed/test_seq.feather": (300, 9)}),
    "stage_06_embeddings_esm2": (
        30,
        {"features/train_embeds_esm2.npy": (5000, 40), "features/test_embeds_esm2.npy": (1200, 9)},
    ),
    "stage_08_stacker": (90, {"models/stacker.pth": (2500, None), "models/stacker.json": (200, None)}),
}
BUNDLE = {"model.pth": 4000, "model_metadata.json": 300, "model_reference.fasta": 700}


def figures(value: float) -> dict[str, float]:
    return {f"{key}/{aspect}": value for key in KEYS for aspect in ("MF", "BP", "CC")}


def make_finished_run(folder: Path, *, weights: str = "random-init(0)", seed: int = 0, **changes: Any) -> Manifest:
    """Write the run; other seeds give other bytes under the same names."""
    config = Config()
    for name in ("config_raw.json", "config_resolved.json"):
        write(folder / name, config.model_dump_json().encode())
    for number, (path, size) in enumerate(BUNDLE.items()):
        write(folder / path, bytes([65 + number + seed]) * size)
    bundle = {path: {"sha256": sha256_file(folder / path), "size": size} for path, size in BUNDLE.items()}
    write(folder / "model_manifest.json", json.dumps({"bundle_version": 1, "files": bundle}).encode())
    metrics = {"val": {"gcn": figures(0.5), "mlp": figures(0.4)}, "test": {"gcn": figures(0.25), "naive": figures(0.1)}}
    for split in ("val", "test"):
        metrics[split]["gcn"] |= {"mae/val": 0.02, "pearson/per_head/MF": 0.3}
    write(folder / "metrics.json", json.dumps(metrics).encode())
    write(folder / "logs/steps.jsonl", b"{}\n{}\n")
    stages, clock = [], 0
    for number, (stage, (seconds, outputs)) in enumerate(STAGES.items()):
        for path, (size, _) in outputs.items():
            write(folder / path, bytes([97 + number + seed]) * size)
        start, clock = clock, clock + seconds
        records = [record(folder, path, rows) for path, (_, rows) in outputs.items()]
        stages.append({**stage_record(stage, start, clock), "outputs": records})
    last = [record(folder, path) for path in (*BUNDLE, "model_manifest.json", "metrics.json")]
    stages.append({**stage_record("stage_09_submission", clock, clock + 5), "outputs": last})
    document = {
        "manifest_version": "1.0",
        "run_id": "finished",
        "status": "complete",
        "created_at": moment(clock + 5),
        "git": {"commit": "c" * 40, "is_dirty": False, "remote": None},
        "python": "CPython 3.11.7",
        "torch": "2.13.0",
        "cuda": None,
        "env_lock": {"name": None, "hash": None, "policy": "warn", "verified": False, "packages_digest": "x"},
        "dataset": {"name": "demo", "version": "1", "split": "s", "hashes": {"data.obo": "a" * 64}},
        "encoder": [{"arch": "esm2_tiny", "dim": 64, "weights": weights, "modality": "esm2"}],
        "checkpoints": ["models/stacker.pth"],
        "config_path": "config_raw.json",
        "config_resolved_path": "config_resolved.json",
        "artifacts": {"metrics": ["metrics.json"], "figures": [], "plots": []},
        "transforms": {"version": "v1", "normalize": True, "mean": None, "std": None},
        "modalities": {"sequence": "present", "esm2": "present", "t5": "absent", "text": "absent"},
        "stages": stages,
        "checks": {
            "train_rows": 40,
            "test_rows": 9,
            "compared": [
                {"path": "features/train_embeds_esm2.npy", "rows": 40, "with": "parsed/train_seq.feather"},
                {"path": "features/test_embeds_esm2.npy", "rows": 9, "with": "parsed/test_seq.feather"},
            ],
        },
        "seeds": {"split": 11},
        "splits": {"sizes": {"fit": 36, "val": 4}},
        "store": {"url": "local://", "datasets": {}, "private": True},
        "model": {"path": "model_manifest.json", "sha256": sha256_file(folder / "model_manifest.json")},
        "metrics": metrics,
        "files": [record(folder, name) for name in ("config_raw.json", "config_resolved.json")],
        **changes,
    }
    write(folder / "manifest.json", json.dumps(document).encode())
    return load_manifest(folder / "manifest.json", complete=False)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def record(folder: Path, path: str, rows: int | None = None) -> dict[str, Any]:
    file = folder / path
    return {"path": path, "sha256": sha256_file(file), "size": file.stat().st_size, "rows": rows}


def stage_record(stage: str, start: int, end: int) -> dict[str, Any]:
    return {"id": stage, "fingerprint": "f", "started": moment(start), "finished": moment(end), "status": "done"}


def moment(second: int) -> str:
    return f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}+00:00"
