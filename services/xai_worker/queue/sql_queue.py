"""The `JobQueue` over a database. A job's row, its key, its place and the engine's entry commit together."""

from __future__ import annotations

import base64
import binascii
import logging
import threading
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from services.xai_worker.queue import rows
from services.xai_worker.queue.admission import Admission
from services.xai_worker.queue.base import (
    Accepted,
    BadPageToken,
    Draining,
    Event,
    JobRecord,
    JobState,
    KeyReused,
    OwnerQuota,
    Page,
    QueueFull,
    QueueStats,
    StoreDown,
    Submission,
    WrongState,
)
from services.xai_worker.queue.crash import crash_point
from services.xai_worker.queue.database import Database
from services.xai_worker.queue.engine import FIRST, Dispatcher, entry_id
from services.xai_worker.queue.schema import JOBS, META
from services.xai_worker.queue.stats import read_stats
from services.xai_worker.settings import WorkerSettings
from shared.digests import canonical_json

LOG = logging.getLogger(__name__)
RETRIABLE = (JobState.FAILED.value, JobState.CANCELLED.value)
MAX_PAGE = 500


class SqlQueue:
    """See `JobQueue`; each method there is a method here.

    Args:
        database: prepared by `open_queue`.
        dispatcher: the engine on the same database.
        settings: bounds and limits.
    """

    def __init__(self, database: Database, dispatcher: Dispatcher, settings: WorkerSettings) -> None:
        self.database, self.dispatcher, self.settings = database, dispatcher, settings
        self._admission = Admission(settings.queue_bound, settings.owner_bound)
        self._draining = threading.Event()
        self._refused = 0

    @property
    def draining(self) -> bool:
        """See `JobQueue.draining`."""
        return self._draining.is_set()

    def precheck(self, owner: str, idempotency_key: str | None, fingerprint: str) -> Accepted | None:
        """See `JobQueue.precheck`."""
        with self.database.read() as connection:
            return self._check(connection, owner, idempotency_key, fingerprint)

    def submit(self, submission: Submission) -> Accepted:
        """See `JobQueue.submit`."""
        asked = submission.owner, submission.idempotency_key, submission.fingerprint
        # A refusal or a replay costs a look and no lock; only what may be accepted waits for its turn.
        if (earlier := self.precheck(*asked)) is not None:
            return earlier
        with self.database.write() as connection:
            if (earlier := self._check(connection, *asked)) is not None:
                return earlier
            at = self._now(connection)
            row = rows.insert(connection, _new_row(submission, at), at, (JobState.QUEUED.value, {"round": 1}))
            self.dispatcher.enqueue(connection, row.id, row.dispatch, priority=FIRST)
            crash_point("submit.before_commit")
        crash_point("submit.after_commit")
        return Accepted(rows.record_of(row), replayed=False)

    def get(self, job_id: str) -> JobRecord:
        """See `JobQueue.get`."""
        with self.database.read() as connection:
            return rows.record_of(rows.get(connection, job_id))

    def list(
        self,
        *,
        state: JobState | None = None,
        owner: str | None = None,
        page_token: str | None = None,
        limit: int = 50,
    ) -> Page:
        """See `JobQueue.list`."""
        statement = sa.select(JOBS).order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc())
        if state is not None:
            statement = statement.where(JOBS.c.state == state.value)
        if owner is not None:
            statement = statement.where(JOBS.c.owner == owner)
        if page_token is not None:
            at, job_id = _parse_token(page_token)
            statement = statement.where(
                sa.or_(JOBS.c.created_at < at, sa.and_(JOBS.c.created_at == at, JOBS.c.id < job_id))
            )
        limit = min(max(limit, 1), MAX_PAGE)
        with self.database.read() as connection:
            found = [rows.record_of(row) for row in connection.execute(statement.limit(limit + 1))]
        return Page(found[:limit], _token(found[limit - 1]) if len(found) > limit else None)

    def cancel(self, job_id: str) -> JobRecord:
        """See `JobQueue.cancel`."""
        withdrawn = None
        with self.database.change() as connection:
            at, row = self._now(connection), rows.get(connection, job_id)
            if JobState(row.state).final:
                return rows.record_of(row)
            # Nothing of it runs: it ends here. Else its process ends first, and whoever holds it says so.
            idle = [JOBS.c.state == row.state, JOBS.c.claim.is_(None), JOBS.c.granted.is_(None)]
            end: dict[str, Any] = {"state": JobState.CANCELLED.value, "finished_at": at, "retry_at": None}
            asked: rows.News = ("cancel_requested", {})
            news = (
                [asked, (JobState.CANCELLED.value, {})]
                if not row.cancel_requested
                else [(JobState.CANCELLED.value, {})]
            )
            changed = rows.change(connection, job_id, *idle, at=at, news=news, values={**end, "cancel_requested": 1})
            if changed is not None:
                withdrawn = entry_id(job_id, changed.dispatch)
            elif not row.cancel_requested:
                open_ = [JOBS.c.state == JobState.RUNNING.value, JOBS.c.cancel_requested == 0]
                rows.change(connection, job_id, *open_, at=at, news=[asked], values={"cancel_requested": 1})
            result = rows.record_of(changed or rows.get(connection, job_id))
            crash_point("cancel.before_commit")
        crash_point("cancel.after_commit")
        if withdrawn is not None:
            self._withdraw(withdrawn)
        return result

    def retry(self, job_id: str) -> JobRecord:
        """See `JobQueue.retry`."""
        with self.database.write() as connection:
            at, row = self._now(connection), rows.get(connection, job_id)
            if row.state not in RETRIABLE:
                raise WrongState(rows.record_of(row), "failed or cancelled")
            self._admit(connection, row.owner)
            fresh: dict[str, Any] = {
                "state": JobState.QUEUED.value, "round": row.round + 1, "failures": 0, "queued_at": at,
                "dispatch": row.dispatch + 1, "cancel_requested": 0, "claim": None,
            } | dict.fromkeys(
                ("started_at", "finished_at", "retry_at", "error_code", "error_message", "error_retryable", "progress")
            )  # fmt: skip
            news: rows.News = (JobState.QUEUED.value, {"round": row.round + 1})
            changed = rows.change(connection, job_id, JOBS.c.state == row.state, at=at, news=[news], values=fresh)
            assert changed is not None, "nobody else changes a final row under the queue's lock"  # noqa: S101
            self.dispatcher.enqueue(connection, job_id, changed.dispatch, priority=FIRST)
        return rows.record_of(changed)

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> Sequence[Event]:
        """See `JobQueue.events`."""
        with self.database.read() as connection:
            found = rows.events(connection, job_id, after, limit)
            if not found:
                rows.get(connection, job_id)
            return found

    def stats(self) -> QueueStats:
        """See `JobQueue.stats`."""
        settings = self.settings
        return read_stats(
            self.database,
            bound=settings.queue_bound,
            max_attempts=settings.max_attempts,
            lease_s=settings.lease_s,
            refused=self._refused,
        )

    def ping(self) -> None:
        """See `JobQueue.ping`."""
        with self.database.change() as connection:
            connection.execute(META.delete().where(META.c.name == "ping"))
            connection.execute(META.insert().values(name="ping", value=str(self._now(connection))))

    def drain(self) -> None:
        """See `JobQueue.drain`."""
        self._draining.set()

    def close(self) -> None:
        """See `JobQueue.close`."""
        self.dispatcher.close()
        self.database.close()

    def _check(self, connection: sa.Connection, owner: str, key: str | None, fingerprint: str) -> Accepted | None:
        """The job that this owner and key already have, or None if a new one may come."""
        row = None if key is None else rows.find(connection, JOBS.c.owner == owner, JOBS.c.idempotency_key == key)
        if row is None:
            self._admit(connection, owner)
            return None
        if row.fingerprint != fingerprint:
            raise KeyReused
        return Accepted(rows.record_of(row), replayed=True)

    def _admit(self, connection: sa.Connection, owner: str) -> None:
        if self.draining:
            raise Draining
        try:
            self._admission.check(connection, owner)
        except (QueueFull, OwnerQuota):
            self._refused += 1
            raise

    def _now(self, connection: sa.Connection) -> float:
        return float(connection.scalar(sa.select(self.database.now())) or 0.0)

    def _withdraw(self, entry: str) -> None:
        """Tidy up; an entry that stays is skipped when its turn comes."""
        try:
            self.dispatcher.withdraw([entry])
        except (StoreDown, sa.exc.SQLAlchemyError):
            LOG.warning("an entry of a cancelled job stays queued", extra={"fields": {"entry": entry}})


def _new_row(submission: Submission, at: float) -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex,
        "run_id": submission.run_id,
        "manifest": submission.manifest,
        "manifest_sha256": submission.manifest_sha256,
        "request": canonical_json(submission.request).decode(),
        "owner": submission.owner,
        "fingerprint": submission.fingerprint,
        "idempotency_key": submission.idempotency_key,
        "work_units": submission.work_units,
        "request_id": submission.request_id,
        "traceparent": submission.traceparent,
        "state": JobState.QUEUED.value,
        "round": 1,
        "attempt": 0,
        "failures": 0,
        "out_of_memory": 0,
        "created_at": at,
        "queued_at": at,
        "cancel_requested": 0,
        "dispatch": 1,
    }


def _token(job: JobRecord) -> str:
    return base64.urlsafe_b64encode(f"{job.created_at!r} {job.id}".encode()).decode().rstrip("=")


def _parse_token(token: str) -> tuple[float, str]:
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode("ascii")
        at, job_id = text.split(" ")
        return float(at), job_id
    except (binascii.Error, ValueError) as error:
        raise BadPageToken from error
