"""A queue over each database, and the moves of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.xai_worker.queue.ledger import Claim, Ledger
from services.xai_worker.queue.opening import open_queue
from services.xai_worker.queue.sql_queue import SqlQueue
from services.xai_worker.settings import WorkerSettings

OpenQueue = Callable[..., SqlQueue]


@pytest.fixture
def open_sql(database_url: str, tmp_path: Path) -> Iterator[OpenQueue]:
    """Opens the database, again and again if asked; settings may differ."""
    opened: list[SqlQueue] = []

    def make(**settings: object) -> SqlQueue:
        values = {"database_url": database_url, "out": tmp_path / "out", **settings}
        opened.append(open_queue(WorkerSettings.model_validate(values)))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


def claim(queue: SqlQueue, job_id: str) -> Claim | None:
    """Begin the next attempt of a job's current dispatch."""
    ledger = Ledger(queue.database, queue.dispatcher)
    found = next((found for found in ledger.open_jobs() if found.job.id == job_id), None)
    return None if found is None else ledger.claim(found)
