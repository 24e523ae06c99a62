"""Forget finished jobs after the retention time: rows, events, keys and the engine's entries. Results stay."""

from __future__ import annotations

import sqlalchemy as sa

from services.xai_worker.queue.database import Database
from services.xai_worker.queue.engine import Dispatcher, entry_id
from services.xai_worker.queue.schema import EVENTS, JOBS

BATCH = 200
DAY_S = 86_400.0


def forget_old(database: Database, dispatcher: Dispatcher, days: float) -> int:
    """Delete at most one batch of jobs that ended longer ago than `days`; how many."""
    with database.read() as connection:
        old = (
            sa.select(JOBS.c.id, JOBS.c.dispatch)
            .where(JOBS.c.finished_at < database.now() - days * DAY_S)
            .order_by(JOBS.c.finished_at)
            .limit(BATCH)
        )
        found = connection.execute(old).all()
    if not found:
        return 0
    # Entries first: a job that is gone could not name them any more.
    dispatcher.forget([entry_id(row.id, dispatch) for row in found for dispatch in range(1, row.dispatch + 1)])
    with database.change() as connection:
        ids = [row.id for row in found]
        ended = JOBS.c.finished_at < database.now() - days * DAY_S  # a retry may have begun meanwhile
        gone = connection.scalars(JOBS.delete().where(JOBS.c.id.in_(ids), ended).returning(JOBS.c.id)).all()
        connection.execute(EVENTS.delete().where(EVENTS.c.job_id.in_(gone)))
    return len(gone)
