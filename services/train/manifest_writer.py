"""Gather what a run made into its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.train.artifact_manifests import write_artifact_manifests
from services.train.provenance import git_record, python_version
from services.train.stage import Stage
from shared.artefacts import artefact
from shared.atomic import write_json
from shared.checkpoint import Checkpoint, Output
from shared.config import Config
from shared.digests import sha256_file
from shared.errors import IntegrityError
from shared.manifest import (
    MANIFEST_VERSION,
    Artifacts,
    BundleRecord,
    Checks,
    Dataset,
    EncoderRecord,
    EnvLock,
    Manifest,
    OutputRecord,
    StageRecord,
    StoreRecord,
    Transforms,
)
from shared.nn.seeding import determinism_record
from shared.stores import Store

CONFIG_RAW = "config_raw.json"
CONFIG_RESOLVED = "config_resolved.json"
MANIFEST = "manifest.json"

# Arrays whose rows follow the table on the left.
ROW_CONTRACTS = {
    "parsed/train_seq.feather": (
        "parsed/train_taxa.feather",
        "parsed/splits.feather",
        "features/train_embeds_",
        "features/oof_",
    ),
    "parsed/test_seq.feather": ("parsed/test_taxa.feather", "features/test_embeds_", "features/test_pred_"),
}
EMBEDDED_MODALITIES = ("esm2", "t5", "text")


@dataclass(frozen=True, slots=True)
class ManifestWriter:
    """Writes `manifest.json` of one run folder."""

    stages: Sequence[Stage]
    config: Config
    run_id: str
    run_folder: Path
    repository: Path
    env_lock: EnvLock
    store: Store

    def write(self, checkpoints: Mapping[str, Checkpoint], status: str) -> Path:
        """Write the manifest atomically; `complete` only when every stage is done and every check holds.

        A complete one follows the manifests of the run's folders, so that it stays the last word.

        Raises:
            IntegrityError: row counts disagree.
        """
        manifest = self.build(checkpoints, status)
        if status == "complete":
            write_artifact_manifests(self.run_folder, manifest, self.config)
        path = self.run_folder / MANIFEST
        write_json(path, manifest.model_dump(mode="json"))
        return path

    def build(self, checkpoints: Mapping[str, Checkpoint], status: str) -> Manifest:
        """Everything the contract asks for, from the checkpoints and the files they name."""
        made = {output.path: output for checkpoint in checkpoints.values() for output in checkpoint.outputs}
        first = checkpoints[self.stages[0].id]
        return Manifest.model_validate(
            {
                "manifest_version": MANIFEST_VERSION,
                "run_id": self.run_id,
                "status": status,
                "created_at": max(checkpoint.finished for checkpoint in checkpoints.values()),
                "git": git_record(self.repository).model_dump(),
                "python": python_version(),
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "env_lock": self.env_lock.model_dump(),
                "dataset": self._dataset(made, first).model_dump(),
                "encoder": [record.model_dump() for record in self._encoders(made)],
                "checkpoints": sorted(
                    path for path in made if path.startswith("models/") and path.endswith((".pth", ".npz"))
                ),
                "config_path": CONFIG_RAW,
                "config_resolved_path": CONFIG_RESOLVED,
                "artifacts": self._artifacts(made).model_dump(),
                "transforms": self._transforms(made).model_dump(),
                "modalities": self._modalities(made),
                "stages": [record.model_dump() for record in self._stages(checkpoints)],
                "checks": row_checks(made).model_dump(),
                "seeds": self._seeds(),
                "splits": self._read(made, "parsed/splits.json") or {},
                "store": StoreRecord.model_validate(self.store.describe()).model_dump(),
                "model": self._bundle(made),
                "metrics": self._read(made, "metrics.json") or {},
                "files": [file_record(self.run_folder, name).model_dump() for name in (CONFIG_RAW, CONFIG_RESOLVED)],
            }
        )

    def _read(self, made: Mapping[str, Output], path: str) -> Any:
        return artefact(path).codec.read(self.run_folder / path) if path in made else None

    def _stages(self, checkpoints: Mapping[str, Checkpoint]) -> list[StageRecord]:
        records = []
        for stage in self.stages:
            done = checkpoints.get(stage.id)
            if done is None:
                records.append(StageRecord(id=stage.id, fingerprint="", started=None, finished=None, status="pending"))
                continue
            outputs = [OutputRecord(path=o.path, sha256=o.sha256, size=o.size, rows=o.rows) for o in done.outputs]
            records.append(
                StageRecord(
                    id=stage.id,
                    fingerprint=done.fingerprint,
                    started=done.started,
                    finished=done.finished,
                    status="done",
                    outputs=outputs,
                )
            )
        return records

    def _dataset(self, made: Mapping[str, Output], first: Checkpoint) -> Dataset:
        data = self.config.data
        hashes = {key.removeprefix("file:"): value for key, value in first.inputs.items() if key.startswith("file:")}
        split = made["parsed/splits.json"].sha256 if "parsed/splits.json" in made else ""
        return Dataset(name=data.name, version=data.version, split=split, hashes=hashes)

    def _encoders(self, made: Mapping[str, Output]) -> list[EncoderRecord]:
        records = []
        for modality in ("t5", "esm2"):
            record = self._read(made, f"features/encoder_{modality}.json")
            if record and not record.get("absent"):
                records.append(EncoderRecord.model_validate({**record, "modality": modality}))
        return records

    def _artifacts(self, made: Mapping[str, Output]) -> Artifacts:
        figures = sorted(path for path in made if path.startswith("figures/"))
        return Artifacts(metrics=[path for path in ("metrics.json",) if path in made], figures=figures, plots=figures)

    def _transforms(self, made: Mapping[str, Output]) -> Transforms:
        fitted = next(
            (
                o
                for path, o in sorted(made.items())
                if path.startswith("models/level1/mlp") and path.endswith((".npz", ".pth"))
            ),
            None,
        )
        where = {"path": fitted.path, "sha256": fitted.sha256} if fitted and self.config.transform.normalize else None
        return Transforms(
            version=self.config.transform.version, normalize=self.config.transform.normalize, mean=where, std=where
        )

    def _modalities(self, made: Mapping[str, Output]) -> dict[str, str]:
        present = {"sequence": True}
        for name in EMBEDDED_MODALITIES:
            array = self._read(made, f"features/train_embeds_{name}.npy")
            if array is not None:
                present[name] = array.shape[1] > 0
        if "parsed/train_taxa.feather" in made:
            present["taxon"] = bool(np.any(self._read(made, "parsed/train_taxa.feather")["taxon_id"].to_numpy() != 0))
        if "external/prop_train_no_kaggle.tsv.gz" in made:
            present["goa"] = any(
                (made[f"external/prop_{part}_no_kaggle.tsv.gz"].rows or 0) > 0 for part in ("train", "test")
            )
        return {name: "present" if value else "absent" for name, value in present.items()}

    def _seeds(self) -> dict[str, Any]:
        config = self.config
        return {
            "split": config.split.seed,
            "level1": config.level1.training.seed,
            "stacker": config.stacker.seed,
            "threads": config.threads,
            "determinism": determinism_record(),
        }

    def _bundle(self, made: Mapping[str, Output]) -> dict[str, Any] | None:
        output = made.get("model_manifest.json")
        return BundleRecord(path=output.path, sha256=output.sha256).model_dump() if output else None


def file_record(folder: Path, path: str) -> OutputRecord:
    """Hash a file of the run folder that no stage made."""
    return OutputRecord(path=path, sha256=sha256_file(folder / path), size=(folder / path).stat().st_size)


def row_checks(made: Mapping[str, Output]) -> Checks:
    """Compare the rows of every array with the table whose order it follows.

    Raises:
        IntegrityError: a count differs.
    """
    compared: list[dict[str, Any]] = []
    for table, prefixes in ROW_CONTRACTS.items():
        if table not in made:
            continue
        for path, output in sorted(made.items()):
            if path == table or not path.startswith(prefixes):
                continue
            if output.rows != made[table].rows:
                raise IntegrityError(
                    f"{path} has {output.rows} rows, {table} has {made[table].rows}",
                    remedy="Run again with --from-stage of the stage that wrote it",
                )
            compared.append({"path": path, "rows": output.rows, "with": table})
    rows = {
        name: made[f"parsed/{name}_seq.feather"].rows if f"parsed/{name}_seq.feather" in made else None
        for name in ("train", "test")
    }
    return Checks(train_rows=rows["train"], test_rows=rows["test"], compared=compared)
