"""What an explanation was made of: run, model, weights, ontology, seeds, environment."""

from __future__ import annotations

import json
import platform
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from shared.env import installed_version
from shared.manifest import EncoderRecord, EnvLock, Manifest

ComparedWith = Literal["stored", "computed"]
COMPARED = {
    "stored": "the scores that the run stored",
    "computed": "the scores that predict computes for these proteins: the run has never seen them and stored none",
}
SOFTWARE = ("torch", "captum", "numpy", "transformers")


class Provenance(BaseModel):
    """Stands in result.json and on every page. It holds no time, so that equal requests give equal bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str
    run_id: str
    model_sha256: str
    dataset: str
    encoders: list[EncoderRecord]
    ontology_version: str
    seeds: dict[str, Any]
    train_commit: str | None
    train_env_lock: str | None
    env_lock: EnvLock
    software: dict[str, str]
    device: str
    threads: int
    data_sha256: dict[str, str] = {}  # config key of each input file, the ontology among them
    compared_with: ComparedWith = "stored"
    notes: list[str] = []  # what a reader must know of all explanations of the job

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, as a page shows them."""
        weights = [(f"Weights of {item.arch}", _weights(item)) for item in self.encoders]
        data = [(f"{name} (sha256)", digest) for name, digest in sorted(self.data_sha256.items())]
        return [
            ("Run", self.run_id),
            ("Job", self.job_id),
            ("Model (sha256)", self.model_sha256),
            *weights,
            ("Data set", self.dataset),
            ("Ontology", self.ontology_version),
            *data,
            ("Seeds", json.dumps(self.seeds, sort_keys=True)),
            ("Code of the run", self.train_commit or "not recorded"),
            ("Environment of the run", self.train_env_lock or "without a lock"),
            ("Environment of this explanation", _environment(self.env_lock)),
            ("Software", ", ".join(f"{name} {version}" for name, version in self.software.items())),
            ("Device", f"{self.device}, {self.threads} threads"),
            ("Parity compares with", COMPARED[self.compared_with]),
        ]


def provenance_of(
    manifest: Manifest,
    *,
    job_id: str,
    ontology_version: str,
    env_lock: EnvLock,
    device: str,
    threads: int,
    compared_with: ComparedWith = "stored",
) -> Provenance:
    """Gather the record of one job."""
    dataset, model = manifest.dataset, manifest.model
    return Provenance(
        job_id=job_id,
        run_id=manifest.run_id,
        model_sha256="none" if model is None else model.sha256,
        dataset=f"{dataset.name} {dataset.version}, {dataset.split}",
        encoders=manifest.encoder,
        ontology_version=ontology_version,
        seeds=manifest.seeds,
        train_commit=manifest.git.commit,
        train_env_lock=manifest.env_lock.hash,
        env_lock=env_lock,
        software={
            "python": platform.python_version(),
            **{name: installed_version(name) or "absent" for name in SOFTWARE},
        },
        device=device,
        threads=threads,
        data_sha256=dataset.hashes,
        compared_with=compared_with,
    )


def _weights(encoder: EncoderRecord) -> str:
    digest = (encoder.model_extra or {}).get("weights_sha256")
    return f"{encoder.weights}, sha256 {digest}" if digest and str(digest) not in encoder.weights else encoder.weights


def _environment(lock: EnvLock) -> str:
    name = f"{lock.name} {lock.hash}" if lock.name else "without a lock"
    return f"{name} ({'verified' if lock.verified else 'not verified'})"
