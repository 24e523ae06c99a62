"""What some worker does every few seconds: adopt the jobs of the dead, find lost entries, forget the old."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from services.xai_worker.folder import clear_staging, read_complete, sweep_staging
from services.xai_worker.queue.base import JobState
from services.xai_worker.queue.engine import parse_entry
from services.xai_worker.queue.ledger import Ledger, Standing
from services.xai_worker.queue.retention import forget_old
from services.xai_worker.queue.schema import WORKERS
from services.xai_worker.settings import WorkerSettings
from services.xai_worker.worker.lease import Lease, SessionLease

LOG = logging.getLogger(__name__)
TIDY_INTERVAL_S = 600.0
LATE_S = 5.0  # the engine wakes delayed entries once a second
MISSED_BEATS = 3  # after which a worker whose lock is free is taken for dead


class Housekeeping:
    """Repairs what dead processes left. Every step may die and be done again by anybody.

    Args:
        ledger: the jobs.
        lease: this worker's slot.
        settings: the volume and the times.
    """

    def __init__(self, ledger: Ledger, lease: Lease, settings: WorkerSettings) -> None:
        self.ledger, self.lease, self.settings = ledger, lease, settings
        self._beats: dict[str, tuple[float, float]] = {}  # slot -> last heartbeat seen, when it was first seen
        self._strange: dict[str, float] = {}  # entry that is given to us and does not run -> since when
        self._neglected: float | None = None  # since when some entry could run and none does
        self._tidied = -TIDY_INTERVAL_S

    def at_start(self) -> None:
        """A published result is a success, whatever the engine says of its job."""
        for found in self.ledger.open_jobs():
            if found.job.attempt > 0:
                self._settle_published(found)
        self.find_lost()

    def tick(self, running: Collection[str]) -> None:
        """One round; `running` are the entries that this worker runs."""
        if isinstance(self.lease, SessionLease):
            self._adopt(self.lease)
        self.find_lost(running)
        if time.monotonic() - self._tidied > TIDY_INTERVAL_S:
            self._tidied = time.monotonic()
            forget_old(self.ledger.database, self.ledger.dispatcher, self.settings.retention_days)
            for results in self.settings.out.glob("*/xai"):
                sweep_staging(results)

    @property
    def neglected_s(self) -> float:
        """How long some entry has been ready to run while this worker ran none."""
        return 0.0 if self._neglected is None else time.monotonic() - self._neglected

    def find_lost(self, running: Collection[str] = ()) -> None:
        """Dispatch again the open jobs whose entry the engine has given up, or has given to nobody who lives."""
        open_jobs = self.ledger.entries()
        owners = self.ledger.dispatcher.alive(open_jobs) if open_jobs else {}
        with self.ledger.database.read() as connection:
            slots: set[str | None] = {None, *connection.scalars(sa.select(WORKERS.c.slot))}
            now = float(connection.scalar(sa.select(self.ledger.database.now())) or 0.0)
        for entry, found in open_jobs.items():
            if entry not in owners:
                self._again(found, "the engine had given up its entry")
            elif owners[entry] not in slots:
                self._again(found, "its worker is gone")
                self.ledger.dispatcher.withdraw([entry])
        self._find_stalled(open_jobs, owners, running, now)

    def _find_stalled(
        self,
        open_jobs: Mapping[str, Standing],
        owners: Mapping[str, str | None],
        running: Collection[str],
        now: float,
    ) -> None:
        """Notice an engine that stopped handing out, or gave us an entry without running it, after an outage."""
        ready = [entry for entry, found in open_jobs.items() if owners.get(entry, "") is None and _due(found, now)]
        if running or not ready:
            self._neglected = None
        elif self._neglected is None:
            self._neglected = time.monotonic()
        ours = {entry for entry, owner in owners.items() if owner == self.lease.slot and entry not in running}
        self._strange = {entry: self._strange.get(entry, time.monotonic()) for entry in ours}
        for entry, since in self._strange.items():
            if time.monotonic() - since > self.settings.lease_s:
                self._again(open_jobs[entry], "it was taken and not run")
                self.ledger.dispatcher.withdraw([entry])

    def _again(self, found: Standing, why: str) -> None:
        job = found.job
        if not self._settle_published(found) and self.ledger.dispatch_again(job.id, found.dispatch):
            LOG.warning("dispatched again", extra={"fields": {"job_id": job.id, "why": why}})

    def _settle_published(self, found: Standing) -> bool:
        final = result_folder(self.settings.out, found.job.run_id, found.job.id)
        if read_complete(final) is None:
            return False
        result = final.relative_to(self.settings.out).as_posix()
        clear_staging(final)
        return self.ledger.finish(found, JobState.SUCCEEDED, result=result) is not None

    def _adopt(self, lease: SessionLease) -> None:
        """Take over the slots whose heartbeat stands still, by our own clock."""
        with self.ledger.database.read() as connection:
            others = connection.execute(sa.select(WORKERS).where(WORKERS.c.slot != lease.slot)).all()
        now = time.monotonic()
        seen = {row.slot: self._since(row.slot, row.heartbeat_at, now) for row in others}
        self._beats = {row.slot: (row.heartbeat_at, seen[row.slot]) for row in others}
        for row in others:
            silent = now - seen[row.slot]
            if silent < min(self.settings.lease_s, MISSED_BEATS * self.settings.heartbeat_s):
                continue
            try:
                if silent >= self.settings.lease_s:
                    lease.end_holder(row.slot)
                if lease.try_lock(row.slot):
                    try:
                        self._take_over(row)
                    finally:
                        lease.unlock(row.slot)
            except SQLAlchemyError as error:
                LOG.warning("could not adopt", extra={"fields": {"slot": row.slot, "reason": str(error)[:200]}})

    def _since(self, slot: str, beat: float, now: float) -> float:
        last, since = self._beats.get(slot, (None, now))
        return since if last == beat else now

    def _take_over(self, row: sa.Row[tuple[object, ...]]) -> None:
        """We hold the slot's lock: nobody else runs under its name."""
        unchanged = (
            WORKERS.c.slot == row.slot,
            WORKERS.c.token == row.token,
            WORKERS.c.heartbeat_at == row.heartbeat_at,
        )
        with self.ledger.database.change() as connection:
            if connection.execute(WORKERS.delete().where(*unchanged)).rowcount == 0:
                return
        # From here on `find_lost` would do the same, if this process dies.
        entries = self.ledger.dispatcher.held_by(row.slot)
        LOG.warning(
            "adopted a dead worker's jobs", extra={"fields": {"slot": row.slot, "host": row.host, "jobs": len(entries)}}
        )
        for entry in entries:
            job_id, dispatch = parse_entry(entry)
            found = self.ledger.standing(job_id, dispatch)
            if found is not None:
                self._again(found, "its worker died")
        self.ledger.dispatcher.withdraw(entries)


def _due(found: Standing, now: float) -> bool:
    return found.job.retry_at is None or found.job.retry_at + LATE_S < now


def result_folder(out: Path, run_id: str, job_id: str) -> Path:
    """Where a job's result is published."""
    return out / run_id / "xai" / job_id
