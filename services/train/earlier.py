"""What runs under one `paths.out` lend each other: the parts of a stage that another run has finished alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared.checkpoint import checkpoint_path, parse_checkpoint
from shared.errors import IntegrityError

COPIED_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Earlier:
    """A stage, of the same version, as a run under the same `paths.out` has finished it."""

    run_folder: Path
    inputs: Mapping[str, str]  # what its fingerprint was made from
    outputs: Mapping[str, str]  # run-relative path -> sha256

    def copy(self, path: str, target: Path) -> bool:
        """Copy an output that still has the bytes which the run recorded; else nothing is there, and False."""
        digest = hashlib.sha256()
        try:
            with (self.run_folder / path).open("rb") as source, target.open("wb") as file:
                while block := source.read(COPIED_AT_ONCE):
                    digest.update(block)
                    file.write(block)
        except FileNotFoundError:
            return False
        if digest.hexdigest() == self.outputs.get(path):
            return True
        target.unlink()
        return False


def none_earlier() -> Iterable[Earlier]:
    """What a context has outside a runner."""
    return ()


def earlier_runs(run_folder: Path, stage: str, version: int) -> Iterator[Earlier]:
    """The stage as this run and those beside it have finished it, the newest first."""
    record = checkpoint_path(Path(), stage)
    ages = {}
    for path in run_folder.parent.glob(f"*/{record}"):
        with suppress(OSError):  # removed meanwhile
            ages[path.resolve()] = path.stat().st_mtime
    for path in sorted(ages, key=lambda found: (-ages[found], found)):
        try:
            found = parse_checkpoint(path.read_bytes(), where=str(path))
        except (OSError, IntegrityError):
            continue
        if found.stage == stage and found.version == version:
            yield Earlier(path.parents[1], found.inputs, {output.path: output.sha256 for output in found.outputs})
