"""A run folder as the service sees one: a true manifest over small files, and result folders for jobs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from services.xai_worker.folder import write_result
from shared.artefacts import artefact
from shared.atomic import write_json
from shared.digests import sha256_file
from shared.manifest import Manifest, OutputRecord

RUN_ID = "demo-0a1b2c3d4e5f"
TEST = {"T1": "MKTAYIAKQR", "T2": "MGKSAAAAAAAAAAAAAAAA", "T3": "MAAAA"}
TRAIN = {"P1": "MSTNPKPQRKTKRNTNRRPQ"}


class PublishedRun:
    """Writes `<out>/<run_id>/` with every file that its manifest names."""

    def __init__(self, out: Path, run_id: str = RUN_ID) -> None:
        self.out, self.run_id, self.folder = out, run_id, out / run_id
        outputs = []
        for part, proteins in (("test", TEST), ("train", TRAIN)):
            path = f"parsed/{part}_seq.feather"
            (self.folder / "parsed").mkdir(parents=True, exist_ok=True)
            frame = pd.DataFrame({"id": list(proteins), "sequence": list(proteins.values())})
            artefact(path).codec.write(self.folder / path, frame)
            outputs.append(self._record(path, rows=len(proteins)))
        for path in ("config_raw.json", "config_resolved.json", "model_manifest.json", "models/cnn/fold_0.pt"):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text("{}")
        write_json(self.path, self.document(outputs))
        Manifest.model_validate(self.value)

    @property
    def path(self) -> Path:
        return self.folder / "manifest.json"

    @property
    def value(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.path.read_bytes())
        return found

    def change(self, **fields: Any) -> None:
        """Write the manifest again with other fields."""
        write_json(self.path, {**self.value, **fields})

    def result(self, job_id: str) -> Path:
        """A complete result folder for a job."""
        folder = self.folder / "xai" / job_id
        (folder / "reports").mkdir(parents=True)
        (folder / "explanations.jsonl").write_text('{"protein":"T1"}\n')
        (folder / "index.html").write_text("<!DOCTYPE html><title>index</title><a href='reports/T1.html'>T1</a>")
        (folder / "reports" / "T1.html").write_text("<!DOCTYPE html><title>T1</title><p id=said>a report</p>")
        write_result(folder, {"status": "complete", "counts": {"explanations": 1}, "request": {}})
        return folder

    def document(self, outputs: list[OutputRecord]) -> dict[str, Any]:
        model = {"path": "model_manifest.json", "sha256": sha256_file(self.folder / "model_manifest.json")}
        return {
            "manifest_version": "1.0",
            "run_id": self.run_id,
            "status": "complete",
            "created_at": "2026-01-01T00:00:00+00:00",
            "git": {"commit": None, "is_dirty": None, "remote": None},
            "python": "3.11",
            "torch": "2.13.0",
            "cuda": None,
            "env_lock": {"name": None, "hash": None, "policy": "warn", "verified": False, "packages_digest": "0"},
            "dataset": {"name": "demo", "version": "1", "split": "clusters", "hashes": {}},
            "encoder": [{"arch": "esm2_tiny", "dim": 64, "weights": "random-init(0)"}],
            "checkpoints": ["models/cnn/fold_0.pt"],
            "config_path": "config_raw.json",
            "config_resolved_path": "config_resolved.json",
            "artifacts": {"metrics": [], "figures": [], "plots": []},
            "transforms": {"version": "v1", "normalize": False, "mean": None, "std": None},
            "modalities": {"text": "absent"},
            "stages": [
                {
                    "id": "stage_01_parsed", "fingerprint": "f" * 64, "started": None, "finished": None,
                    "status": "done", "outputs": [output.model_dump() for output in outputs],
                }
            ],
            "checks": {"train_rows": len(TRAIN), "test_rows": len(TEST), "compared": []},
            "seeds": {"seed": 0},
            "splits": {},
            "store": {"url": "memory://", "datasets": {}, "private": True},
            "model": model,
            "metrics": {"fmax/MF": 0.5},
            "files": [],
        }  # fmt: skip

    def _record(self, path: str, rows: int) -> OutputRecord:
        file = self.folder / path
        return OutputRecord(path=path, sha256=sha256_file(file), size=file.stat().st_size, rows=rows)
