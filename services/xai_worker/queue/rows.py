"""Reading and changing the row of a job, with its events, in somebody else's transaction.

Every change is a compare-and-set: the caller's conditions stand in the WHERE, and a row that no longer
meets them gives None. A change and the events that tell of it are one statement apart, and commit together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from services.xai_worker.queue.base import Event, JobError, JobRecord, JobState, NoSuchJob
from services.xai_worker.queue.schema import EVENTS, JOBS

News = tuple[str, Mapping[str, Any]]  # an event's kind and data


def record_of(row: sa.Row[Any]) -> JobRecord:
    """A row as HTTP sees it."""
    error = None
    if row.error_code is not None:
        error = JobError(row.error_code, row.error_message, bool(row.error_retryable))
    return JobRecord(
        id=row.id,
        run_id=row.run_id,
        manifest=row.manifest,
        manifest_sha256=row.manifest_sha256,
        request=json.loads(row.request),
        owner=row.owner,
        fingerprint=row.fingerprint,
        state=JobState(row.state),
        created_at=row.created_at,
        version=row.version,
        idempotency_key=row.idempotency_key,
        round=row.round,
        attempt=row.attempt,
        failures=row.failures,
        started_at=row.started_at,
        finished_at=row.finished_at,
        retry_at=row.retry_at,
        cancel_requested=bool(row.cancel_requested),
        error=error,
        result=row.result,
        progress=None if row.progress is None else json.loads(row.progress),
        work_units=row.work_units,
        request_id=row.request_id,
        traceparent=row.traceparent,
    )


def find(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> sa.Row[Any] | None:
    """The one row that meets the conditions."""
    return connection.execute(sa.select(JOBS).where(*conditions)).one_or_none()


def get(connection: sa.Connection, job_id: str) -> sa.Row[Any]:
    """The row of a job.

    Raises:
        NoSuchJob: there is none.
    """
    row = find(connection, JOBS.c.id == job_id)
    if row is None:
        raise NoSuchJob(job_id)
    return row


def insert(connection: sa.Connection, values: Mapping[str, Any], at: float, *news: News) -> sa.Row[Any]:
    """A new row and its first events."""
    connection.execute(JOBS.insert().values(last_event=len(news), version=1, **values))
    _tell(connection, str(values["id"]), 0, at, news)
    return get(connection, str(values["id"]))


def change(
    connection: sa.Connection,
    job_id: str,
    *conditions: sa.ColumnElement[bool],
    at: float,
    news: Sequence[News] = (),
    values: Mapping[str, Any],
) -> sa.Row[Any] | None:
    """Change a row that still meets the conditions, and tell of it; None if it does not."""
    statement = (
        JOBS.update()
        .where(JOBS.c.id == job_id, *conditions)
        .values(version=JOBS.c.version + 1, last_event=JOBS.c.last_event + len(news), **values)
        .returning(JOBS)
    )
    row = connection.execute(statement).one_or_none()
    if row is not None:
        _tell(connection, job_id, row.last_event - len(news), at, news)
    return row


def events(connection: sa.Connection, job_id: str, after: int, limit: int) -> list[Event]:
    """Events after one, in order."""
    statement = (
        sa.select(EVENTS).where(EVENTS.c.job_id == job_id, EVENTS.c.id > after).order_by(EVENTS.c.id).limit(limit)
    )
    return [Event(row.id, row.kind, json.loads(row.data), row.at) for row in connection.execute(statement)]


def _tell(connection: sa.Connection, job_id: str, last: int, at: float, news: Sequence[News]) -> None:
    if news:
        connection.execute(
            EVENTS.insert(),
            [
                {"job_id": job_id, "id": last + i, "kind": kind, "data": json.dumps(dict(data)), "at": at}
                for i, (kind, data) in enumerate(news, 1)
            ],
        )
