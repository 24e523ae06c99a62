"""The queue in figures, read in one look."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from services.xai_worker.queue.admission import median_run_s
from services.xai_worker.queue.base import HISTOGRAM_BOUNDS_S, Histogram, JobState, QueueStats
from services.xai_worker.queue.database import Database
from services.xai_worker.queue.schema import JOBS, META, WORKERS


def read_stats(database: Database, *, bound: int, max_attempts: int, lease_s: float, refused: int) -> QueueStats:
    """Look at the tables; figures that the tables do not have are given."""
    with database.read() as connection:
        now = float(connection.scalar(sa.select(database.now())) or 0)
        oldest = connection.scalar(sa.select(sa.func.min(JOBS.c.queued_at)).where(JOBS.c.state == JobState.QUEUED))
        workers = connection.execute(sa.select(WORKERS.c.capacity, WORKERS.c.heartbeat_at)).all()
        live = [worker.capacity for worker in workers if now - worker.heartbeat_at <= lease_s]
        meta = {row.name: row.value for row in connection.execute(sa.select(META))}
        return QueueStats(
            bound=bound,
            max_attempts=max_attempts,
            slots=sum(live),
            workers=len(live),
            by_state=_by_state(connection),
            oldest_waiting_s=None if oldest is None else max(0.0, now - oldest),
            median_run_s=median_run_s(connection),
            last_claim_at=_number(meta.get("last_claim_at")),
            last_heartbeat_at=max((worker.heartbeat_at for worker in workers), default=None),
            failures_by_code=_failures(connection),
            retries=int(meta.get("retries", 0)),
            recoveries=int(meta.get("recoveries", 0)),
            refused=refused,
            queue_wait=_histogram(connection, JOBS.c.started_at - JOBS.c.queued_at),
            run_time=_histogram(connection, JOBS.c.finished_at - JOBS.c.started_at),
        )


def _by_state(connection: sa.Connection) -> dict[JobState, int]:
    rows = connection.execute(sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state))
    return dict.fromkeys(JobState, 0) | {JobState(state): count for state, count in rows}


def _failures(connection: sa.Connection) -> dict[str, int]:
    failed = sa.select(JOBS.c.error_code, sa.func.count()).where(JOBS.c.state == JobState.FAILED)
    return {str(code): count for code, count in connection.execute(failed.group_by(JOBS.c.error_code))}


def _histogram(connection: sa.Connection, seconds: sa.ColumnElement[float]) -> Histogram:
    below: list[Any] = [
        sa.func.coalesce(sa.func.sum(sa.case((seconds <= bound, 1), else_=0)), 0) for bound in HISTOGRAM_BOUNDS_S
    ]
    statement = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(seconds), 0.0), *below)
    count, total, *counts = connection.execute(statement.where(seconds.is_not(None))).one()
    return Histogram(tuple(int(value) for value in counts), int(count), float(total))


def _number(value: str | None) -> float | None:
    return None if value is None else float(value)
