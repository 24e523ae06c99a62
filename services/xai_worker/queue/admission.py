"""Who may queue a job: the bound of all waiting jobs, the bound of one owner, and when to come back."""

from __future__ import annotations

import math
import statistics
import time

import sqlalchemy as sa

from services.xai_worker.queue.base import JobState, OwnerQuota, QueueFull
from services.xai_worker.queue.schema import JOBS, WORKERS

UNFINISHED = (JobState.QUEUED.value, JobState.RUNNING.value)
RECENT_JOBS = 50  # finished jobs that the median is taken over
UNKNOWN_RUN_S = 10.0  # what a job is taken to need before one has finished
RETRY_AFTER_S = (1, 600)
FORGET_S = 5.0


class Admission:
    """The bounds of one queue.

    Args:
        bound: jobs that may wait.
        owner_bound: unfinished jobs of one owner.
    """

    def __init__(self, bound: int, owner_bound: int) -> None:
        self.bound, self.owner_bound = bound, owner_bound
        self._rate: tuple[float, float] | None = None  # when measured, seconds between two ends

    def check(self, connection: sa.Connection, owner: str) -> None:
        """Refuse what exceeds a bound. Exact inside `Database.write`; elsewhere a quick look that may be late.

        Raises:
            QueueFull: as many jobs wait as may.
            OwnerQuota: the owner has as many unfinished jobs as it may.
        """
        count = sa.select(sa.func.count()).select_from(JOBS)
        waiting = connection.scalar(count.where(JOBS.c.state == JobState.QUEUED)) or 0
        if waiting >= self.bound:
            raise QueueFull(waiting, self.bound, self._retry_after(connection, waiting))
        owned = connection.scalar(count.where(JOBS.c.owner == owner, JOBS.c.state.in_(UNFINISHED))) or 0
        if owned >= self.owner_bound:
            raise OwnerQuota(owner, self.owner_bound, self._retry_after(connection, owned))

    def _retry_after(self, connection: sa.Connection, waiting: int) -> int:
        """Seconds until a tenth of those who wait, at least one, will have begun."""
        if self._rate is None or time.monotonic() - self._rate[0] > FORGET_S:
            slots = connection.scalar(sa.select(sa.func.sum(WORKERS.c.capacity))) or 1
            self._rate = time.monotonic(), (median_run_s(connection) or UNKNOWN_RUN_S) / slots
        least, most = RETRY_AFTER_S
        return min(most, max(least, math.ceil(self._rate[1] * max(1, waiting // 10))))


def median_run_s(connection: sa.Connection) -> float | None:
    """Median of the recent jobs' time from first attempt to end, in seconds."""
    recent = (
        sa.select(JOBS.c.finished_at - JOBS.c.started_at)
        .where(JOBS.c.state == JobState.SUCCEEDED)
        .order_by(JOBS.c.created_at.desc())
        .limit(RECENT_JOBS)
    )
    durations = [max(0.0, seconds) for seconds in connection.scalars(recent) if seconds is not None]
    return statistics.median(durations) if durations else None
