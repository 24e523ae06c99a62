"""manifest.json, version 1: the record that names and hashes everything a run made.

Every path is relative to the manifest's folder. Unknown fields are kept when it is read and written.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_VERSION = "1.0"
SHA256 = r"^[0-9a-f]{64}$"


class Part(BaseModel):
    """A part of the manifest; a newer minor version may add fields."""

    model_config = ConfigDict(extra="allow")


class Git(Part):
    """Which code ran."""

    commit: str | None
    is_dirty: bool | None
    remote: str | None


class EnvLock(Part):
    """Which locked environment the run claims, and whether the installed packages are it."""

    name: str | None
    hash: str | None
    policy: Literal["strict", "warn", "ignore"]
    verified: bool
    packages_digest: str = Field(description="over the installed name==version lines")
    forced: bool = False
    differences: list[dict[str, Any]] = []


class Dataset(Part):
    """What was learnt from: registry name and version, how it was split, sha256 of each input file."""

    name: str
    version: str
    split: str
    hashes: dict[str, str]


class EncoderRecord(Part):
    """One sequence encoder; `weights` says where from and the sha256, or `random-init(seed)`."""

    arch: str
    dim: int
    weights: str


class Artifacts(Part):
    """What a person looks at, by run-relative path."""

    metrics: list[str] = []
    figures: list[str] = []
    plots: list[str] = []


class Transforms(Part):
    """What was done to the pooled vectors; `mean` and `std` name the file that holds the fitted values."""

    version: str
    normalize: bool
    mean: dict[str, str] | None
    std: dict[str, str] | None


class OutputRecord(Part):
    """One artefact of a stage."""

    path: str
    sha256: str = Field(pattern=SHA256)
    size: int = Field(ge=0)
    rows: int | None = None


class StageRecord(Part):
    """One milestone."""

    id: str
    fingerprint: str
    started: str | None
    finished: str | None
    status: Literal["done", "pending"]
    outputs: list[OutputRecord] = []


class Checks(Part):
    """Row counts, and what each was compared with."""

    train_rows: int | None
    test_rows: int | None
    compared: list[dict[str, Any]] = []


class StoreRecord(Part):
    """Where the checkpoints are; `private` is null where the backend cannot tell."""

    url: str
    datasets: dict[str, Any]
    private: bool | None


class BundleRecord(Part):
    """The model bundle's own manifest."""

    path: str
    sha256: str = Field(pattern=SHA256)


class Manifest(Part):
    """The only thing that crosses from train to xai-worker."""

    manifest_version: str = Field(pattern=r"^\d+\.\d+$")
    run_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
    status: Literal["partial", "complete"]
    created_at: str
    git: Git
    python: str
    torch: str
    cuda: str | None
    env_lock: EnvLock
    dataset: Dataset
    encoder: list[EncoderRecord]
    checkpoints: list[str]
    config_path: str
    config_resolved_path: str
    artifacts: Artifacts
    transforms: Transforms
    modalities: dict[str, str]
    stages: list[StageRecord]
    checks: Checks
    seeds: dict[str, Any]
    splits: dict[str, Any]
    store: StoreRecord
    model: BundleRecord | None
    metrics: dict[str, Any]
    files: list[OutputRecord] = Field(default=[], description="hashed files outside stages, such as the configs")

    def outputs(self) -> list[OutputRecord]:
        """Every hashed file that the manifest names."""
        return [*(output for stage in self.stages for output in stage.outputs), *self.files]

    def paths(self) -> list[str]:
        """Every path that the manifest names, hashed or not."""
        named = [output.path for output in self.outputs()]
        named += [self.config_path, self.config_resolved_path, *self.checkpoints]
        named += [*self.artifacts.metrics, *self.artifacts.figures, *self.artifacts.plots]
        if self.model is not None:
            named.append(self.model.path)
        for fitted in (self.transforms.mean, self.transforms.std):
            if fitted is not None and "path" in fitted:
                named.append(fitted["path"])
        return named
