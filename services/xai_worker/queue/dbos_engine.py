"""The engine: DBOS Transact, on the same database as our tables. The only file that imports dbos.

DBOS holds durable queue entries and hands them out; it runs again what an executor held when it died.
Its retries, its cancellation and its limits are not used: attempts are counted in our table.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions

from services.xai_worker.queue.database import Database
from services.xai_worker.queue.engine import Run, entry_id, parse_entry

QUEUE, WORKFLOW, APPLICATION = "xai-explain", "xai-attempt", "gowhy-xai"
# Recovery skips entries of another version, so it changes only when old entries could not be run any more.
APPLICATION_VERSION = "1"
# Attempts are counted by us long before this; a process that dies before it can count is what it is for.
MAX_RECOVERY_ATTEMPTS = 50
ALIVE = ["ENQUEUED", "DELAYED", "PENDING"]
CHUNK = 500

_run: Run | None = None


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=MAX_RECOVERY_ATTEMPTS)
def _attempt(entry: str) -> None:
    assert _run is not None, "no entry is taken before the runner starts"  # noqa: S101
    job_id, dispatch = parse_entry(entry)
    _run(job_id, dispatch)


def migrate(database: Database) -> None:
    """Create or upgrade DBOS's own tables."""
    logging.getLogger("dbos").setLevel(logging.ERROR)  # it warns that SQLite is for development; we kill-test it
    url = database.url if database.is_sqlite else database.url.set(drivername="postgresql")
    DBOS.migrate(url.render_as_string(hide_password=False))


class DbosDispatcher:
    """Enqueues through DBOS's client."""

    def __init__(self, database: Database) -> None:
        self._client = DBOSClient(
            system_database_engine=database.engine, application_name=APPLICATION, retry_connection_errors=False
        )

    def enqueue(
        self, connection: sa.Connection, job_id: str, dispatch: int, *, priority: int, delay_s: float = 0.0
    ) -> None:
        """See `Dispatcher.enqueue`."""
        entry = entry_id(job_id, dispatch)
        options: EnqueueOptions = {
            "queue_name": QUEUE,
            "workflow_name": WORKFLOW,
            "workflow_id": entry,
            "app_version": APPLICATION_VERSION,
            "priority": priority,
        }
        if delay_s > 0:
            options["delay_seconds"] = delay_s
        self._client.enqueue_in_transaction(connection, options, entry)

    def alive(self, entries: Collection[str]) -> dict[str, str | None]:
        """See `Dispatcher.alive`."""
        wanted, found = list(entries), dict[str, str | None]()
        for start in range(0, len(wanted), CHUNK):
            rows = self._client.list_workflows(
                workflow_ids=wanted[start : start + CHUNK], status=ALIVE, load_input=False, load_output=False
            )
            found |= {row.workflow_id: row.executor_id if row.status == "PENDING" else None for row in rows}
        return found

    def held_by(self, executor: str) -> Sequence[str]:
        """See `Dispatcher.held_by`."""
        rows = self._client.list_workflows(
            executor_id=executor, status="PENDING", queue_name=QUEUE, load_input=False, load_output=False
        )
        return [row.workflow_id for row in rows]

    def withdraw(self, entries: Collection[str]) -> None:
        """See `Dispatcher.withdraw`."""
        if entries:
            self._client.cancel_workflows(list(entries))

    def forget(self, entries: Collection[str]) -> None:
        """See `Dispatcher.forget`."""
        wanted = list(entries)
        for start in range(0, len(wanted), CHUNK):
            self._client.delete_workflows(wanted[start : start + CHUNK])

    def close(self) -> None:
        """See `Dispatcher.close`; the connections belong to the database."""
        self._client.destroy()


class DbosRunner:
    """Runs DBOS in this process; there is at most one, because DBOS is one per process.

    Args:
        database: shared with the dispatcher.
        executor: the slot's name; DBOS runs again at start what this executor held.
        concurrency: entries that run at once.
        poll_s: how often a free place looks for an entry.
    """

    def __init__(self, database: Database, executor: str, *, concurrency: int, poll_s: float) -> None:
        self._concurrency, self._poll_s = concurrency, poll_s
        self._config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_engine": database.engine,
            "executor_id": executor,
            "application_version": APPLICATION_VERSION,
            "log_level": "ERROR",
            "use_listen_notify": False,
            "run_migrations": False,
        }

    def start(self, run: Run) -> None:
        """See `Runner.start`."""
        global _run  # noqa: PLW0603 - DBOS itself is one per process
        _run = run
        DBOS(config=self._config)
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=self._concurrency, polling_interval_sec=self._poll_s)

    def stop(self, timeout_s: float) -> None:
        """See `Runner.stop`."""
        DBOS.destroy(workflow_completion_timeout_sec=max(1, round(timeout_s)))
