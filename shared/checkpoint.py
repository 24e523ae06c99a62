"""The record of one finished stage: what it was made from, and what it made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.artefacts import artefact
from shared.digests import sha256_file
from shared.errors import IntegrityError

CHECKPOINTS = ".checkpoints"  # in a run folder


@dataclass(frozen=True, slots=True)
class Output:
    """One artefact a stage wrote; `path` is relative to the run folder."""

    path: str
    sha256: str
    size: int  # bytes
    rows: int | None

    @classmethod
    def of(cls, root: Path, path: str) -> Output:
        """Measure a file under `root`."""
        file = root / path
        return cls(path, sha256_file(file), file.stat().st_size, artefact(path).codec.rows(file))

    def matches(self, root: Path) -> bool:
        """True when the file under `root` holds exactly these bytes."""
        file = root / self.path
        return file.is_file() and file.stat().st_size == self.size and sha256_file(file) == self.sha256


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A stage's outputs plus the fingerprint that they were made from."""

    stage: str
    version: int
    fingerprint: str
    inputs: dict[str, str]  # artefact path or config file key -> sha256
    outputs: tuple[Output, ...]
    started: str  # ISO 8601, UTC
    finished: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> Checkpoint:
        """Parse; a damaged record is an integrity failure, never a default.

        Raises:
            IntegrityError: a field is missing, or an output path leaves the run folder.
        """
        try:
            outputs = tuple(Output(**item) for item in value["outputs"])
            checkpoint = cls(**{**value, "outputs": outputs, "inputs": dict(value["inputs"])})
        except (TypeError, KeyError, ValueError) as error:
            raise IntegrityError(
                f"not a checkpoint: {error}", where=where, remedy="Delete the file; the stage then runs again"
            ) from error
        for output in outputs:
            if not is_confined(output.path):
                raise IntegrityError(f"output path {output.path!r} leaves the run folder", where=where)
        return checkpoint


def is_confined(path: str) -> bool:
    """True for a relative path without `..`, drive or root."""
    pure = Path(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and "\0" not in path


def checkpoint_path(run_folder: Path, stage: str) -> Path:
    """Where a stage's checkpoint is kept in the run folder."""
    return run_folder / CHECKPOINTS / f"{stage}.json"


def parse_checkpoint(data: bytes, *, where: str) -> Checkpoint:
    """Parse stored bytes.

    Raises:
        IntegrityError: they are not a checkpoint.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise IntegrityError(f"not JSON: {error}", where=where) from error
    return Checkpoint.from_json(value, where=where)
