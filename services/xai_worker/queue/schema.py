"""Our tables, and the steps that bring an older database up to them.

A step is SQL that SQLite and Postgres both understand; a released step is never edited. The tables here
describe the result of all steps, and a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa

from services.xai_worker.queue.database import MIGRATION_LOCK, Database
from shared.errors import ConfigError

METADATA = sa.MetaData()

JOBS = sa.Table(
    "xai_jobs",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("manifest_sha256", sa.Text),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("work_units", sa.BigInteger, nullable=False),
    sa.Column("request_id", sa.Text),
    sa.Column("traceparent", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("out_of_memory", sa.Integer, nullable=False),  # attempts of this job that ran out of memory
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("last_event", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("queued_at", sa.Float, nullable=False),  # created_at, or when the current round began to wait
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Column("retry_at", sa.Float),
    sa.Column("cancel_requested", sa.Integer, nullable=False),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("error_retryable", sa.Integer),
    sa.Column("result", sa.Text),
    sa.Column("progress", sa.Text),
    sa.Column("dispatch", sa.Integer, nullable=False),  # number of the engine's entry that may run the job
    sa.Column("claim", sa.Text),  # token of the attempt that runs now; whoever holds another one changes nothing
    sa.Column("granted", sa.Integer),  # attempt that was allowed to publish and is not known to have ended
)

EVENTS = sa.Table(
    "xai_events",
    METADATA,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
)

WORKERS = sa.Table(
    "xai_workers",
    METADATA,
    sa.Column("slot", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, nullable=False),  # of the process; a new holder of the slot writes its own
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("capacity", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("heartbeat_at", sa.Float, nullable=False),
)

META = sa.Table(
    "xai_meta",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

COUNTERS = ("retries", "recoveries")  # names in xai_meta

STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE xai_jobs (
            id TEXT PRIMARY KEY, run_id TEXT NOT NULL, manifest TEXT NOT NULL, manifest_sha256 TEXT,
            request TEXT NOT NULL, owner TEXT NOT NULL, fingerprint TEXT NOT NULL, idempotency_key TEXT,
            work_units BIGINT NOT NULL, request_id TEXT, traceparent TEXT,
            state TEXT NOT NULL, round INTEGER NOT NULL, attempt INTEGER NOT NULL, failures INTEGER NOT NULL,
            version INTEGER NOT NULL, last_event INTEGER NOT NULL,
            created_at DOUBLE PRECISION NOT NULL, queued_at DOUBLE PRECISION NOT NULL,
            started_at DOUBLE PRECISION, finished_at DOUBLE PRECISION, retry_at DOUBLE PRECISION,
            cancel_requested INTEGER NOT NULL,
            error_code TEXT, error_message TEXT, error_retryable INTEGER,
            result TEXT, progress TEXT, dispatch INTEGER NOT NULL, claim TEXT,
            UNIQUE (owner, idempotency_key))""",
        "CREATE INDEX xai_jobs_state ON xai_jobs (state, queued_at)",
        "CREATE INDEX xai_jobs_newest ON xai_jobs (created_at, id)",
        "CREATE INDEX xai_jobs_owner ON xai_jobs (owner, state)",
        """CREATE TABLE xai_events (
            job_id TEXT NOT NULL, id INTEGER NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
            at DOUBLE PRECISION NOT NULL, PRIMARY KEY (job_id, id))""",
        """CREATE TABLE xai_workers (
            slot TEXT PRIMARY KEY, token TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
            capacity INTEGER NOT NULL,
            started_at DOUBLE PRECISION NOT NULL, heartbeat_at DOUBLE PRECISION NOT NULL)""",
    ),
    (
        "ALTER TABLE xai_jobs ADD COLUMN granted INTEGER",
        "ALTER TABLE xai_jobs ADD COLUMN out_of_memory INTEGER NOT NULL DEFAULT 0",
    ),
)


def prepare(database: Database) -> int:
    """Create or upgrade our tables; the version that the database had.

    Raises:
        ConfigError: a newer release has written this database.
        StoreDown: the database does not answer.
    """
    with database.change() as connection:
        if not database.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS xai_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        found = connection.scalar(sa.select(META.c.value).where(META.c.name == "schema_version"))
        version = int(found or 0)
        if version > len(STEPS):
            raise ConfigError(
                f"the queue's database has schema {version}, this release knows {len(STEPS)}",
                where="GOWHY_XAI_DATABASE_URL",
                remedy="Run the newer release, or give this one a database of its own",
            )
        for step in STEPS[version:]:
            for statement in step:
                connection.exec_driver_sql(statement)
        connection.execute(META.delete().where(META.c.name == "schema_version"))
        connection.execute(META.insert().values(name="schema_version", value=str(len(STEPS))))
        known = set(connection.scalars(sa.select(META.c.name)))
        for name in sorted(set(COUNTERS) - known):
            connection.execute(META.insert().values(name=name, value="0"))
    return version
