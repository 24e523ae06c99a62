"""What a worker writes: each step of a job's life, compared and set.

An attempt holds a `claim`, a token made when it began. Whoever takes the job over makes a new one, so that
a worker that was stopped and wakes changes nothing any more: its conditions meet no row.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from services.xai_worker.queue import rows
from services.xai_worker.queue.base import JobError, JobRecord, JobState
from services.xai_worker.queue.crash import crash_point
from services.xai_worker.queue.database import Database
from services.xai_worker.queue.engine import AGAIN, Dispatcher, entry_id
from services.xai_worker.queue.schema import JOBS, META

OPEN = (JobState.QUEUED.value, JobState.RUNNING.value)
WORKER_DIED = JobError("worker_died", "the worker process died while it ran this job", retryable=True)


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that may run."""

    job: JobRecord
    dispatch: int
    token: str
    out_of_memory: int  # earlier attempts that ran out of memory
    may_have_published: bool  # an earlier attempt was allowed to publish and may still do so


@dataclass(frozen=True, slots=True)
class Standing:
    """A job as a worker finds it before it begins."""

    job: JobRecord
    dispatch: int
    interrupted: bool  # an attempt began and nobody said how it ended
    may_have_published: bool  # an attempt was allowed to publish and may still do so


class Ledger:
    """The worker's side of the jobs table.

    Args:
        database: the queue's.
        dispatcher: takes the entries of further attempts.
    """

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self.database, self.dispatcher = database, dispatcher

    def standing(self, job_id: str, dispatch: int) -> Standing | None:
        """How an open job stands; None if it has ended, is gone, or another dispatch runs it."""
        with self.database.read() as connection:
            row = rows.find(connection, JOBS.c.id == job_id, JOBS.c.dispatch == dispatch, JOBS.c.state.in_(OPEN))
        return None if row is None else _standing(row)

    def open_jobs(self) -> list[Standing]:
        """Every job that has not ended, oldest first."""
        statement = sa.select(JOBS).where(JOBS.c.state.in_(OPEN)).order_by(JOBS.c.created_at)
        with self.database.read() as connection:
            return [_standing(row) for row in connection.execute(statement)]

    def claim(self, found: Standing) -> Claim | None:
        """Begin the next attempt; an interrupted one before it counts as failed. None: somebody was faster."""
        token, job = uuid.uuid4().hex, found.job
        with self.database.change() as connection:
            at = self._now(connection)
            values: dict[str, Any] = {
                "state": JobState.RUNNING.value,
                "attempt": job.attempt + 1,
                "claim": token,
                "started_at": sa.func.coalesce(JOBS.c.started_at, at),
                "retry_at": None,
                "progress": None,
            }
            news: list[rows.News] = []
            if found.interrupted:
                values |= {"failures": job.failures + 1} | _error(WORKER_DIED)
                news.append(("retrying", {"code": WORKER_DIED.code, "in_s": 0.0}))
                _count(connection, "recoveries")
            if job.state is JobState.QUEUED:
                news.append((JobState.RUNNING.value, {}))
            news.append(("attempt", {"attempt": job.attempt + 1}))
            same = (*self._as_found(found), JOBS.c.cancel_requested == 0)
            row = rows.change(connection, job.id, *same, at=at, news=news, values=values)
            _set(connection, "last_claim_at", str(at))
            crash_point("claim.before_commit")
        crash_point("claim.after_commit")
        if row is None:
            return None
        return Claim(rows.record_of(row), found.dispatch, token, row.out_of_memory, row.granted is not None)

    def progress(self, claim: Claim, steps: Sequence[Mapping[str, Any]]) -> None:
        """Tell how far an attempt is; the last step is the newest."""
        with self.database.change() as connection:
            news: list[rows.News] = [("progress", step) for step in steps]
            at, values = self._now(connection), {"progress": json.dumps(dict(steps[-1]))}
            rows.change(connection, claim.job.id, *_held(claim), at=at, news=news, values=values)

    def holds(self, claim: Claim) -> tuple[bool, bool]:
        """Whether the attempt is still the job's, and whether its end was asked for."""
        with self.database.read() as connection:
            row = rows.find(connection, JOBS.c.id == claim.job.id, *_held(claim))
        return row is not None, row is not None and bool(row.cancel_requested)

    def grant(self, claim: Claim) -> bool:
        """Allow an attempt to publish. From now on only the folder decides between it and an end."""
        with self.database.change() as connection:
            conditions = (*_held(claim), JOBS.c.cancel_requested == 0)
            # The first attempt whose end nobody saw stays noted.
            granted = sa.func.coalesce(JOBS.c.granted, claim.job.attempt)
            row = rows.change(connection, claim.job.id, *conditions, at=0.0, values={"granted": granted})
            crash_point("grant.before_commit")
        crash_point("grant.after_commit")
        return row is not None

    def finish(
        self,
        found: Standing | Claim,
        state: JobState,
        *,
        result: str | None = None,
        error: JobError | None = None,
        failed: bool = False,
    ) -> JobRecord | None:
        """Give a job its end; `failed` counts the last attempt. None: it is no longer ours to end."""
        job = found.job
        data: dict[str, Any] = {} if error is None else {"code": error.code, "message": error.message}
        with self.database.change() as connection:
            at = self._now(connection)
            values: dict[str, Any] = {
                "state": state.value, "finished_at": at, "retry_at": None, "claim": None, "granted": None,
                "result": result, "failures": job.failures + int(failed),
                "started_at": sa.func.coalesce(JOBS.c.started_at, at),
            } | _error(error)  # fmt: skip
            conditions = _held(found) if isinstance(found, Claim) else self._as_found(found)
            row = rows.change(connection, job.id, *conditions, at=at, news=[(state.value, data)], values=values)
            crash_point("finish.before_commit")
        crash_point("finish.after_commit")
        return None if row is None else rows.record_of(row)

    def try_later(self, claim: Claim, error: JobError, delay_s: float, *, out_of_memory: bool) -> bool:
        """End an attempt whose process is gone, and queue the next one; False: the job is no longer ours."""
        with self.database.change() as connection:
            at = self._now(connection)
            news: rows.News = ("retrying", {"code": error.code, "in_s": round(delay_s, 3)})
            values: dict[str, Any] = {
                "failures": claim.job.failures + 1, "dispatch": claim.dispatch + 1, "claim": None, "granted": _other_grant(claim),
                "retry_at": at + delay_s, "out_of_memory": claim.out_of_memory + int(out_of_memory),
            } | _error(error)  # fmt: skip
            row = rows.change(connection, claim.job.id, *_held(claim), at=at, news=[news], values=values)
            if row is not None:
                self.dispatcher.enqueue(connection, row.id, row.dispatch, priority=AGAIN, delay_s=delay_s)
                _count(connection, "retries")
            crash_point("retry.before_commit")
        crash_point("retry.after_commit")
        return row is not None

    def hand_back(self, claim: Claim) -> bool:
        """Queue the job again without counting this attempt, whose process is gone."""
        with self.database.change() as connection:
            at = self._now(connection)
            news: rows.News = ("retrying", {"code": "handed_back", "in_s": 0.0})
            values: dict[str, Any] = {
                "dispatch": claim.dispatch + 1, "claim": None, "granted": _other_grant(claim), "retry_at": at,
            }  # fmt: skip
            row = rows.change(connection, claim.job.id, *_held(claim), at=at, news=[news], values=values)
            if row is not None:
                self.dispatcher.enqueue(connection, row.id, row.dispatch, priority=AGAIN)
                _count(connection, "recoveries")
            crash_point("hand_back.before_commit")
        crash_point("hand_back.after_commit")
        return row is not None

    def dispatch_again(self, job_id: str, dispatch: int) -> bool:
        """Give an open job a new entry, because its old one ended or its worker is dead.

        The claim stays, so that the next attempt counts the interrupted one; but the old worker can do
        nothing any more, because it holds the old dispatch.
        """
        with self.database.change() as connection:
            conditions = (JOBS.c.dispatch == dispatch, JOBS.c.state.in_(OPEN))
            row = rows.change(connection, job_id, *conditions, at=0.0, values={"dispatch": dispatch + 1})
            if row is not None:
                self.dispatcher.enqueue(connection, job_id, row.dispatch, priority=AGAIN)
            crash_point("reconcile.before_commit")
        crash_point("reconcile.after_commit")
        return row is not None

    def entries(self) -> dict[str, Standing]:
        """Every open job by the name of its current entry."""
        return {entry_id(found.job.id, found.dispatch): found for found in self.open_jobs()}

    def _as_found(self, found: Standing) -> tuple[sa.ColumnElement[bool], ...]:
        """Nothing has happened to the job since it was looked at, but progress and requests."""
        job = found.job
        return (
            JOBS.c.state == job.state.value,
            JOBS.c.attempt == job.attempt,
            JOBS.c.dispatch == found.dispatch,
            JOBS.c.round == job.round,
        )

    def _now(self, connection: sa.Connection) -> float:
        return float(connection.scalar(sa.select(self.database.now())) or 0.0)


def _held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        JOBS.c.state == JobState.RUNNING.value,
        JOBS.c.attempt == claim.job.attempt,
        JOBS.c.dispatch == claim.dispatch,
        JOBS.c.claim == claim.token,
    )


def _other_grant(claim: Claim) -> sa.ColumnElement[Any]:
    """The noted grant, unless it is this attempt's, whose process is gone."""
    return sa.case((JOBS.c.granted == claim.job.attempt, sa.null()), else_=JOBS.c.granted)


def _standing(row: sa.Row[Any]) -> Standing:
    return Standing(rows.record_of(row), row.dispatch, row.claim is not None, row.granted is not None)


def _error(error: JobError | None) -> dict[str, Any]:
    if error is None:
        return {"error_code": None, "error_message": None, "error_retryable": None}
    return {
        "error_code": error.code,
        "error_message": error.message,
        "error_retryable": int(error.retryable),
    }


def _count(connection: sa.Connection, name: str) -> None:
    value = sa.cast(sa.cast(META.c.value, sa.Integer) + 1, sa.Text)
    connection.execute(META.update().where(META.c.name == name).values(value=value))


def _set(connection: sa.Connection, name: str, value: str) -> None:
    found = connection.execute(META.update().where(META.c.name == name).values(value=value))
    if found.rowcount == 0:
        connection.execute(META.insert().values(name=name, value=value))
