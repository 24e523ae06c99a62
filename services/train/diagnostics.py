"""What a run or a store holds, drawn: largest files, sizes, row counts, stage times.

    report = diagnose(manifest=Path("out/latest/manifest.json"))    # or store=open_store(url, cache)
    report.figures()["largest_files"]                                # a matplotlib Figure, for a notebook

`python -m services.train diagnose` writes the same as PNG and one self-contained HTML page.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.train.manifest_writer import ROW_CONTRACTS
from services.train.pipeline import PIPELINE
from shared.checkpoint import Checkpoint, Output
from shared.errors import MissingInput, UsageError
from shared.manifest import StageRecord, load_manifest
from shared.stores import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class File:
    """One artefact; `size` in bytes."""

    path: str
    stage: str
    size: int
    rows: int | None


@dataclass(frozen=True, slots=True)
class RowCheck:
    """An array's rows against the table whose order it follows."""

    path: str
    rows: int | None
    table: str
    expected: int | None

    @property
    def holds(self) -> bool:
        """True when the counts are equal."""
        return self.rows == self.expected


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a stage took, its outputs restored or not."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that is drawn; `source` says of what."""

    source: str
    files: tuple[File, ...]
    rows: tuple[RowCheck, ...]
    timings: tuple[Timing, ...]
    stages: tuple[str, ...]  # finished ones

    @property
    def total_bytes(self) -> int:
        """Of all files; equal content in two places counts twice."""
        return sum(file.size for file in self.files)

    def largest(self, count: int = 15) -> list[File]:
        """The largest files, largest first, ties by path."""
        return sorted(self.files, key=lambda file: (-file.size, file.path))[:count]

    def failed(self) -> list[RowCheck]:
        """Row counts that disagree."""
        return [check for check in self.rows if not check.holds]

    def figures(self) -> dict[str, Figure]:
        """Name -> figure: largest_files, size_distribution, row_counts, stage_timings."""
        from services.train.diagnostics_figures import draw  # noqa: PLC0415 - matplotlib takes a second to load

        return draw(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self),
            "total_bytes": self.total_bytes,
            "rows_hold": not self.failed(),
            "largest": [file.path for file in self.largest()],
        }


def diagnose(*, manifest: Path | None = None, store: Store | None = None) -> Report:
    """Look at a run, by its manifest, or at the newest run in a store. Neither reads an artefact.

    Raises:
        MissingInput: no such manifest, or an empty store.
        IntegrityError: a manifest or checkpoint that is damaged.
    """
    if manifest is not None and store is None:
        document = load_manifest(manifest, complete=False, verify=False)
        finished = [checkpoint_of(stage) for stage in document.stages if stage.status == "done"]
        return report(f"run {document.run_id} ({document.status})", finished)
    if store is None or manifest is not None:
        raise UsageError("give either a manifest or a store")
    found = newest_run(store.checkpoints())
    if not found:
        raise MissingInput("the store has no checkpoint", where=store.url, remedy="Push a run first")
    return report(f"newest run in {store.url}", found)


def checkpoint_of(stage: StageRecord) -> Checkpoint:
    """A manifest's stage in the form in which a store keeps it; what went in is not in a manifest."""
    outputs = tuple(Output(o.path, o.sha256, o.size, o.rows) for o in stage.outputs)
    return Checkpoint(stage.id, 0, stage.fingerprint, {}, outputs, stage.started or "", stage.finished or "")


def report(source: str, checkpoints: Iterable[Checkpoint]) -> Report:
    """Gather a report from finished stages."""
    done = list(checkpoints)
    files = tuple(File(o.path, c.stage, o.size, o.rows) for c in done for o in c.outputs)
    timings = tuple(Timing(c.stage, seconds(c)) for c in done if c.started and c.finished)
    return Report(source, files, tuple(row_counts(files)), timings, tuple(c.stage for c in done))


def seconds(checkpoint: Checkpoint) -> float:
    """From a stage's start to its end."""
    start, end = (datetime.datetime.fromisoformat(text) for text in (checkpoint.started, checkpoint.finished))
    return (end - start).total_seconds()


def row_counts(files: Iterable[File]) -> list[RowCheck]:
    """Every array beside the table that it follows, where both are there."""
    known = {file.path: file for file in files}
    return [
        RowCheck(path, file.rows, table, known[table].rows)
        for table, prefixes in ROW_CONTRACTS.items()
        if table in known
        for path, file in sorted(known.items())
        if path != table and path.startswith(prefixes)
    ]


def newest_run(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """One checkpoint per stage, in pipeline order, that belong together.

    From the last stage backwards, the newest checkpoint whose outputs are those that later stages read.
    """
    stored = list(checkpoints)
    wanted: dict[str, str] = {}
    chosen: list[Checkpoint] = []
    for stage in reversed([stage.id for stage in PIPELINE]):
        fitting = [c for c in stored if c.stage == stage and fits(c, wanted)]
        if fitting:
            chosen.insert(0, max(fitting, key=lambda c: (c.finished, c.fingerprint)))
            wanted |= chosen[0].inputs
    return chosen


def fits(checkpoint: Checkpoint, wanted: Mapping[str, str]) -> bool:
    """True when no output differs from what a later stage read."""
    return all(wanted.get(output.path, output.sha256) == output.sha256 for output in checkpoint.outputs)
