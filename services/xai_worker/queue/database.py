"""The database under the queue: SQLite in one file, or Postgres. Nothing else here knows which.

`write` is one transaction under the queue's single lock (BEGIN IMMEDIATE, or an advisory lock), so what
is counted in it stays true until it commits. `change` is one transaction without that lock, for
statements that compare and set a single row.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from services.xai_worker.queue.base import StoreDown
from shared.errors import ConfigError

QUEUE_LOCK = 7_246_912  # advisory lock numbers of this application; slots count upwards from SLOT_LOCK
MIGRATION_LOCK = 7_246_913
SLOT_LOCK = 7_250_000
BUSY_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 30_000
POOL = 8


class Database:
    """Connections to one database.

    Args:
        url: `sqlite:///FILE` or `postgresql://...`.
        pool: connections that may be open at once.
        busy_timeout_ms: how long a statement waits for somebody else's lock.
    """

    def __init__(self, url: str, pool: int = POOL, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        self.url = sqlalchemy_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _sqlite(self.url, pool, busy_timeout_ms) if self.is_sqlite else _postgres(self.url, pool)
        # SQLite's waiting is polling, and unfair: threads of one process queue here instead.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()

    @property
    def file(self) -> Path | None:
        """The database file of SQLite."""
        return Path(str(self.url.database)) if self.is_sqlite else None

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One consistent look.

        Raises:
            StoreDown: the database does not answer.
        """
        with _named(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def change(self) -> Iterator[sa.Connection]:
        """One transaction without the queue's lock on Postgres; on SQLite all writers wait for each other anyway.

        Raises:
            StoreDown: the database does not answer, or is full or read-only; nothing is changed.
        """
        with _named(), self._turn, self.engine.connect() as connection, connection.begin():
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction that no other `write` overlaps.

        Raises:
            StoreDown: the database does not answer, or is full or read-only; nothing is changed.
        """
        with self.change() as connection:
            if not self.is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(QUEUE_LOCK)))
            yield connection

    def now(self) -> sa.ColumnElement[float]:
        """Seconds since the epoch by the database's clock, so that hosts need not agree on theirs."""
        if self.is_sqlite:
            return sa.cast(sa.literal_column("(julianday('now') - 2440587.5) * 86400.0"), sa.Float)
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def sqlalchemy_url(url: str) -> sa.URL:
    """The URL as SQLAlchemy wants it, with the driver that is installed.

    Raises:
        ConfigError: not a URL of SQLite or Postgres, or SQLite without a file.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError("not a database URL", where="GOWHY_XAI_DATABASE_URL", remedy=_REMEDY) from error
    if parsed.get_backend_name() in {"postgresql", "postgres"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
        raise ConfigError(
            f"a database of kind {parsed.drivername!r} cannot hold the queue",
            where="GOWHY_XAI_DATABASE_URL",
            remedy=_REMEDY,
        )
    return parsed.set(drivername="sqlite", database=str(Path(str(parsed.database)).expanduser().absolute()))


_REMEDY = "Use sqlite:////absolute/file.sqlite3, or postgresql://user@host/name"


def _sqlite(url: sa.URL, pool: int, busy_timeout_ms: int) -> sa.Engine:
    engine = sa.create_engine(url, pool_size=pool, max_overflow=0, pool_timeout=30)

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        # The rollback journal, not WAL: SQLite before 3.51.3 can corrupt a database in WAL mode.
        for pragma in (
            f"busy_timeout={busy_timeout_ms}",
            "journal_mode=DELETE",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _postgres(url: sa.URL, pool: int) -> sa.Engine:
    options = f"-c lock_timeout={LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout=60000"
    return sa.create_engine(
        url,
        pool_size=pool,
        max_overflow=0,
        pool_timeout=30,
        pool_pre_ping=True,
        connect_args={"options": options, "connect_timeout": 10, "application_name": "gowhy-xai"},
    )


@contextmanager
def _named() -> Iterator[None]:
    """Turn what the driver raises when the database is away, full or locked into `StoreDown`."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise StoreDown(_reason(error)) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise StoreDown(_reason(error)) from error
        raise


def _reason(error: Exception) -> str:
    """The driver's first line, without the statement and its values."""
    origin = getattr(error, "orig", None) or error
    return str(origin).strip().split("\n")[0][:200] or type(origin).__name__
