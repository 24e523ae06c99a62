"""What a stage is, and what it may use.

A stage is one file with one `STAGE`: an id, a version, the artefacts it reads and writes, the config
sections it reads, and one `run` function. The runner hashes all of that; nothing else may change an
output. A stage whose fits several processes make has its `Fits` beside it. Bump `version` whenever the meaning of `run` changes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from services.train.earlier import Earlier, none_earlier
from services.train.team import ALONE, Team
from shared.artefacts import artefact
from shared.config import Config, Section
from shared.errors import MissingInput
from shared.logs import Logger
from shared.progress import Progress, progress

SectionT = TypeVar("SectionT", bound=Section)


class Outputs(Protocol):
    """Which artefacts a stage writes; may depend on the config."""

    def __call__(self, config: Config) -> tuple[str, ...]:
        """Run-relative paths, in writing order."""
        ...


@dataclass(frozen=True, slots=True)
class Stage:
    """One milestone of the pipeline."""

    id: str
    version: int
    run: Callable[[StageContext], None]
    inputs: Outputs
    outputs: Outputs
    sections: tuple[type[Section], ...] = ()
    files: tuple[str, ...] | None = None  # config keys of the user's files it reads; None: all of its sections'
    fits: Callable[[StageContext], Fits] | None = None  # of a stage whose fits other processes may share or make

    def settings(self, config: Config) -> dict[str, Section]:
        """The declared sections, by their key in the config."""
        return {name: value for name, value in config if isinstance(value, self.sections)}


class Fits(Protocol):
    """The fits of a stage that do not need each other, with what they read."""

    @property
    def names(self) -> Sequence[str]:
        """In the order in which they are begun."""
        ...

    @property
    def steps(self) -> int:
        """That each has, for progress."""
        ...

    @property
    def unit(self) -> str:
        """What a step is called."""
        ...

    def is_made(self, name: str) -> bool:
        """Whether the work folder has the fit, whole."""
        ...

    def make(self, name: str, step: Callable[[], None]) -> None:
        """Make a fit and keep it in the work folder, what vouches for it last; `step` counts its progress."""
        ...

    def share(self, name: str) -> None:
        """Take this process's part in a fit that the leader of its team makes, and keep nothing."""
        ...


def always(*paths: str) -> Outputs:
    """Artefacts that do not depend on the config."""
    return lambda config: paths


@dataclass(frozen=True, slots=True)
class StageContext:
    """What `run` may touch: declared inputs, declared outputs, declared settings, a resumable work folder.

    `device`, `threads`, `cache`, `team` and the progress bar may change how fast a stage is, never what it writes
    (beyond the rounding of sums).
    """

    stage: Stage
    sections: Mapping[str, Section]
    files: Mapping[str, Path]  # "data.train_fasta" -> path; only those that are set
    run_folder: Path
    staging: Path  # outputs are written here, and moved by the runner when all are there
    work: Path  # survives a kill; named by the fingerprint, so that it never holds another input's work
    cache: Path  # out/cache: content-keyed, shared by runs
    device: str
    threads: int
    input_paths: frozenset[str]
    output_paths: frozenset[str]
    log: Logger = field(repr=False)
    team: Team = ALONE
    digests: Mapping[str, str] = field(default_factory=dict)  # of everything that the stage's fingerprint holds
    earlier: Callable[[], Iterable[Earlier]] = none_earlier
    taken: list[str] = field(default_factory=list)  # what `run` took from an earlier one: it cost nothing now
    helped: list[int] = field(default_factory=list)  # peak bytes of the processes that helped `run`

    def settings(self, kind: type[SectionT]) -> SectionT:
        """The config section of a declared kind."""
        for value in self.sections.values():
            if type(value) is kind:
                return value
        raise KeyError(f"{self.stage.id} does not declare {kind.__name__} in its sections")

    def file(self, key: str) -> Path | None:
        """The user's file under a config key such as `data.obo`, or None where it is not set."""
        return self.files.get(key)

    def require_file(self, key: str) -> Path:
        """The user's file under a config key.

        Raises:
            MissingInput: the key is not set.
        """
        path = self.files.get(key)
        if path is None:
            raise MissingInput(
                f"{key} is not set", where=self.stage.id, remedy=f"Give the file with --set {key}=PATH or in the config"
            )
        return path

    def input(self, path: str) -> Path:
        """Where a declared input artefact lies."""
        if path not in self.input_paths:
            raise KeyError(f"{self.stage.id} does not declare the input {path}")
        return self.run_folder / path

    def read(self, path: str) -> Any:
        """Read a declared input artefact by its codec (arrays come memory-mapped)."""
        return artefact(path).codec.read(self.input(path))

    def output(self, path: str) -> Path:
        """Where to write a declared output artefact; it appears in the run folder when `run` ends."""
        if path not in self.output_paths:
            raise KeyError(f"{self.stage.id} does not declare the output {path}")
        target = self.staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write(self, path: str, value: Any) -> None:
        """Write a declared output artefact by its codec."""
        artefact(path).codec.write(self.output(path), value)

    def create_array(self, path: str, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
        """A zeroed array on disk to fill row block by row block; flushed by the runner's fsync.

        Shapes without elements are written at once, because an empty file cannot be mapped.
        """
        target = self.output(path)
        if 0 in shape:
            empty: np.ndarray[Any, Any] = np.zeros(shape, dtype)
            with target.open("wb") as file:
                np.save(file, empty, allow_pickle=False)
            return empty
        array = np.lib.format.open_memmap(target, mode="w+", dtype=dtype, shape=shape)
        # Reserve the blocks now: a full disk is then an error here, not a SIGBUS at a later write.
        handle = os.open(target, os.O_RDWR)
        try:
            os.posix_fallocate(handle, 0, target.stat().st_size)
        finally:
            os.close(handle)
        return array

    @contextlib.contextmanager
    def progress(self, what: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Progress]:
        """A progress bar with rate and ETA (plain lines when not a terminal)."""
        with progress(f"{self.stage.id} {what}", total, unit, done) as bar:
            yield bar
