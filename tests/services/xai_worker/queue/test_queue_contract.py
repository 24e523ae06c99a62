from __future__ import annotations

import pytest
from contracts.queue_contract import BOUND, OWNER_BOUND, QueueContract

from services.xai_worker.queue.base import JobError, JobQueue, JobState
from services.xai_worker.queue.ledger import Claim, Ledger
from services.xai_worker.queue.sql_queue import SqlQueue
from tests.fakes.memory_queue import MemoryQueue
from tests.services.xai_worker.queue.conftest import OpenQueue, claim


class TestMemoryQueue(QueueContract):
    @pytest.fixture
    def queue(self) -> MemoryQueue:
        return MemoryQueue(BOUND, OWNER_BOUND)

    def begin(self, queue: JobQueue, job_id: str) -> None:
        queue.begin(job_id)

    def succeed(self, queue: JobQueue, job_id: str) -> None:
        queue.succeed(job_id)

    def fail(self, queue: JobQueue, job_id: str) -> None:
        queue.fail(job_id, "bad_data")

    def end_cancelled(self, queue: JobQueue, job_id: str) -> None:
        queue.end_cancelled(job_id)


class TestSqlQueue(QueueContract):
    """On SQLite and on Postgres."""

    @pytest.fixture
    def queue(self, open_sql: OpenQueue) -> SqlQueue:
        self.claims: dict[str, Claim] = {}
        return open_sql(queue_bound=BOUND, owner_bound=OWNER_BOUND)

    def begin(self, queue: SqlQueue, job_id: str) -> None:
        begun = claim(queue, job_id)
        assert begun is not None
        self.claims[job_id] = begun

    def succeed(self, queue: SqlQueue, job_id: str) -> None:
        ledger, held = Ledger(queue.database, queue.dispatcher), self.claims[job_id]
        assert ledger.grant(held)
        assert ledger.finish(held, JobState.SUCCEEDED, result=f"run/xai/{job_id}") is not None

    def fail(self, queue: SqlQueue, job_id: str) -> None:
        ledger = Ledger(queue.database, queue.dispatcher)
        error = JobError("bad_data", "the input is wrong")
        assert ledger.finish(self.claims[job_id], JobState.FAILED, error=error, failed=True) is not None

    def end_cancelled(self, queue: SqlQueue, job_id: str) -> None:
        ledger = Ledger(queue.database, queue.dispatcher)
        assert ledger.finish(self.claims[job_id], JobState.CANCELLED) is not None
