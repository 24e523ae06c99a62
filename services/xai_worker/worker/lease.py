"""A worker's slot: who may take jobs, under which name, and who is dead.

SQLite: one worker process per database, kept so by a lock on a file beside it. Postgres: any number; each
holds the advisory lock of its slot in a session of its own. Every worker writes a heartbeat. One whose
heartbeat stands still is dead for the others: its session is ended, its lock taken, its jobs dispatched
again. It may only be stopped, and wake: then its heartbeat meets no row, and it ends itself. What it does
before it notices changes nothing, because its claims are void.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from services.xai_worker.queue.base import StoreDown
from services.xai_worker.queue.database import SLOT_LOCK, Database
from services.xai_worker.queue.schema import WORKERS
from services.xai_worker.settings import WorkerSettings
from shared.errors import TryAgain

LOG = logging.getLogger(__name__)
MAX_SLOTS = 1024


class Lease(ABC):
    """A slot that this process holds until it is released or lost."""

    def __init__(self, database: Database, settings: WorkerSettings, on_lost: Callable[[], None]) -> None:
        self.database, self.settings, self._on_lost = database, settings, on_lost
        self.token = uuid.uuid4().hex
        self.slot = ""
        self._renewed = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @abstractmethod
    def _take(self) -> str:
        """Lock a free slot; its name."""

    @abstractmethod
    def _still_locked(self) -> bool:
        """Whether the lock holds; takes it again where its session has died."""

    @abstractmethod
    def _unlock(self) -> None:
        """Give the lock back."""

    def acquire(self) -> None:
        """Take a slot and begin to say that this process lives.

        Raises:
            TryAgain: no slot is free.
            StoreDown: the database does not answer.
        """
        self.slot = self._take()
        self._write_row()
        self._renewed = time.monotonic()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """False when others may have taken this process for dead. The clock runs on while a process is stopped."""
        return time.monotonic() - self._renewed < self.settings.lease_s

    def release(self) -> None:
        """Say goodbye; jobs must have ended or been handed back."""
        self._stop.set()
        self._thread.join(self.settings.heartbeat_s + 1)
        try:
            with self.database.change() as connection:
                connection.execute(WORKERS.delete().where(*self._mine()))
        except StoreDown:
            LOG.warning("could not remove the worker's row; others will see that its heartbeat stands still")
        self._unlock()

    def _mine(self) -> tuple[sa.ColumnElement[bool], ...]:
        return WORKERS.c.slot == self.slot, WORKERS.c.token == self.token

    def _write_row(self) -> None:
        now = self.database.now()
        with self.database.change() as connection:
            connection.execute(WORKERS.delete().where(WORKERS.c.slot == self.slot))
            connection.execute(
                WORKERS.insert().values(
                    slot=self.slot, token=self.token, host=socket.gethostname(), pid=os.getpid(),
                    capacity=self.settings.concurrency, started_at=now, heartbeat_at=now,
                )
            )  # fmt: skip

    def _beat(self) -> None:
        try:
            while not self._stop.wait(self.settings.heartbeat_s):
                begun = time.monotonic()
                try:
                    lost = not self._still_locked() or not self._renew()
                except (StoreDown, SQLAlchemyError) as error:
                    LOG.warning("no heartbeat", extra={"fields": {"slot": self.slot, "reason": str(error)[:200]}})
                    continue
                if lost:
                    LOG.error("another worker has taken this slot", extra={"fields": {"slot": self.slot}})
                    return
                self._renewed = begun
        finally:
            # Also if this thread fails: a worker without a heartbeat would do nothing, for ever.
            if not self._stop.is_set():
                self._on_lost()

    def _renew(self) -> bool:
        with self.database.change() as connection:
            beat = WORKERS.update().where(*self._mine()).values(heartbeat_at=self.database.now())
            return connection.execute(beat).rowcount == 1


class FileLease(Lease):
    """The only slot of a SQLite database."""

    _descriptor: int | None = None

    @property
    def alive(self) -> bool:
        """Nobody else can take jobs while this process holds the file's lock."""
        return self._descriptor is not None

    def _take(self) -> str:
        assert self.database.file is not None  # noqa: S101
        path = self.database.file.with_name(self.database.file.name + ".worker")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + self.settings.lease_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise TryAgain(
                        "another worker process takes jobs from this database",
                        where=str(path),
                        remedy="On SQLite there is one; stop it first, or use postgresql:// for many",
                    ) from error
                time.sleep(0.2)
        self._descriptor = descriptor
        return "0"

    def _still_locked(self) -> bool:
        return True

    def _unlock(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class SessionLease(Lease):
    """One of many slots of a Postgres database."""

    def __init__(self, database: Database, settings: WorkerSettings, on_lost: Callable[[], None]) -> None:
        super().__init__(database, settings, on_lost)
        # A session of its own, without the pool's limits on idle time. The server asks whether a silent peer lives.
        options = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
        self._engine = sa.create_engine(
            database.url,
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"options": options, "connect_timeout": 10, "application_name": "gowhy-xai-slot"},
        )
        self._session: sa.Connection | None = None
        self._lock = threading.Lock()  # the session serves one statement at a time

    def try_lock(self, slot: str) -> bool:
        """Take a slot's lock in our session, if nobody has it.

        Raises:
            DBAPIError: the session is gone.
        """
        return bool(self._ask(sa.func.pg_try_advisory_lock(SLOT_LOCK + int(slot))))

    def unlock(self, slot: str) -> None:
        """Give a slot's lock back."""
        self._ask(sa.func.pg_advisory_unlock(SLOT_LOCK + int(slot)))

    def end_holder(self, slot: str) -> None:
        """End the session that holds a slot's lock."""
        holders = sa.text(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND classid = 0 AND objid = :key AND pid <> pg_backend_pid()"
        )
        self._ask(holders.bindparams(key=SLOT_LOCK + int(slot)))

    def _ask(self, what: Any) -> Any:
        with self._lock:
            if self._session is None:
                raise StoreDown("the slot's session has not come back yet")
            return self._session.scalar(what if isinstance(what, sa.TextClause) else sa.select(what))

    def _take(self) -> str:
        try:
            self._session = self._engine.connect()
            for slot in map(str, range(MAX_SLOTS)):
                if self.try_lock(slot):
                    return slot
        except DBAPIError as error:
            raise StoreDown(str(error.orig).split("\n")[0][:200]) from error
        raise TryAgain(f"all {MAX_SLOTS} worker slots are taken", remedy="Stop some workers")

    def _still_locked(self) -> bool:
        with self._lock:
            if self._session is not None and _answers(self._session):
                return True
            # The session died with the server, or somebody ended it. Whoever has the slot now decides.
            self._session = None
            self._session = self._engine.connect()
        return self.try_lock(self.slot)

    def _unlock(self) -> None:
        with self._lock:
            if self._session is not None:
                self._session.close()
        self._engine.dispose()


def _answers(session: sa.Connection) -> bool:
    try:
        session.scalar(sa.select(1))
    except DBAPIError:
        session.invalidate()
        session.close()
        return False
    return True


def lease_for(database: Database, settings: WorkerSettings, on_lost: Callable[[], None]) -> Lease:
    """The kind of slot that the database allows; not acquired yet."""
    kind = FileLease if database.is_sqlite else SessionLease
    return kind(database, settings, on_lost)
