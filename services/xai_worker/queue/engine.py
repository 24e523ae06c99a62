"""What the queue asks of the library that hands out work, so that the library can be replaced.

An entry is `<job id>.<dispatch>`. The engine runs every entry at least once, and again if the process
that ran it died; which run counts is decided in our own table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, runtime_checkable

import sqlalchemy as sa

FIRST, AGAIN = 2, 1  # priorities: a job that has begun goes before one that has not
Run = Callable[[str, int], None]  # job id, dispatch


def entry_id(job_id: str, dispatch: int) -> str:
    """The engine's name of one dispatch of a job."""
    return f"{job_id}.{dispatch}"


def parse_entry(entry: str) -> tuple[str, int]:
    """The job and dispatch of an entry."""
    job_id, _, dispatch = entry.rpartition(".")
    return job_id, int(dispatch)


@runtime_checkable
class Dispatcher(Protocol):
    """The side of the engine that every process has."""

    def enqueue(
        self, connection: sa.Connection, job_id: str, dispatch: int, *, priority: int, delay_s: float = 0.0
    ) -> None:
        """Put an entry into the queue, in the caller's transaction: both commit, or neither."""
        ...

    def alive(self, entries: Collection[str]) -> dict[str, str | None]:
        """Those of the entries that have not ended, each with the executor that took it; None: it waits."""
        ...

    def held_by(self, executor: str) -> Sequence[str]:
        """Entries that an executor took and has not ended."""
        ...

    def withdraw(self, entries: Collection[str]) -> None:
        """Take entries out of the queue that nobody needs any more; unknown and ended ones are no error."""
        ...

    def forget(self, entries: Collection[str]) -> None:
        """Delete ended entries."""
        ...

    def close(self) -> None:
        """Give resources back."""
        ...


@runtime_checkable
class Runner(Protocol):
    """The side of the engine that a worker process has."""

    def start(self, run: Run) -> None:
        """Take entries and run them, each in a thread; those that this executor held before it died first."""
        ...

    def stop(self, timeout_s: float) -> None:
        """Take no more, wait for the running ones, and give resources back."""
        ...
