"""The database restarts, is locked, or its disk is full; the volume is full: nothing is lost, work goes on after."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.xai_worker.queue.base import JobState, StoreDown
from services.xai_worker.queue.sql_queue import SqlQueue
from tests.chaos.conftest import count
from tests.chaos.history import RUN_ID, History, asked, settle
from tests.chaos.running import Running
from tests.fakes.postgres_server import PostgresServer

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@contextlib.contextmanager
def submitting(queue: SqlQueue, history: History, every_s: float = 0.15) -> Iterator[list[str]]:
    """Submit from a thread, each job until it is acknowledged; yields the refusals."""
    stop, refusals = threading.Event(), []

    def run() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            while True:
                try:
                    history.answer(f"k{number}", queue.submit(asked(f"k{number}")).job.id)
                    break
                except StoreDown as error:
                    refusals.append(str(error))
                    time.sleep(0.1)
            time.sleep(every_s)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield refusals
    finally:
        stop.set()
        thread.join(60)


def ready(queue: SqlQueue, workers: int) -> None:
    """Until so many workers have a slot."""
    deadline = time.monotonic() + 40
    while queue.stats().workers < workers:
        assert time.monotonic() < deadline, "the workers did not start"
        time.sleep(0.1)


def conclude(service: Running, queue: SqlQueue, history: History, kind: str) -> None:
    settle(history, queue, service.out, timeout_s=90)
    verdict = history.check(queue, service.out, service.audit)
    count(kind, acknowledged=verdict.acknowledged, lost=len(verdict.lost), published_twice=len(verdict.twice))
    if verdict.lost:
        print(service.log_tail(), service.stacks())
    verdict.hold()
    assert set(verdict.states) == {JobState.SUCCEEDED}, service.log_tail()


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_postgres_restart(
    kind: str, database_url: str, tmp_path: Path, postgres_server: PostgresServer, mode: str
) -> None:
    service, history = Running(tmp_path, database_url, GOWHY_XAI_CONCURRENCY="2"), History(bound=100)
    queue = service.queue()
    try:
        workers = [service.start("--role", "worker") for _ in range(2)]
        ready(queue, 2)
        with submitting(queue, history) as refusals:
            time.sleep(4)
            before = len(history.acknowledged)
            postgres_server.stop(mode)
            time.sleep(2)
            postgres_server.start()
            deadline = time.monotonic() + 30
            while len(history.acknowledged) < before + 10 and time.monotonic() < deadline:
                time.sleep(0.1)
        assert refusals, "the restart was not noticed"
        conclude(service, queue, history, kind)
        # Both took their slots again; none was taken for dead.
        assert [worker.poll() for worker in workers] == [None, None], service.log_tail()
        assert queue.stats().workers == 2
    finally:
        service.destroy()
        queue.close()


def test_a_locked_database(kind: str, database_url: str, tmp_path: Path) -> None:
    service, history = Running(tmp_path, database_url), History(bound=100)
    queue = service.queue()
    try:
        service.start("--role", "worker")
        ready(queue, 1)
        with submitting(queue, history):
            time.sleep(3)
            before = len(history.acknowledged)
            with locked(kind, database_url):
                time.sleep(4)
                while_locked = len(history.acknowledged) - before
            time.sleep(3)
        assert while_locked <= 1, "the lock did not hold"
        assert len(history.acknowledged) > before + 1
        conclude(service, queue, history, kind)
    finally:
        service.destroy()
        queue.close()


@contextlib.contextmanager
def locked(kind: str, database_url: str) -> Iterator[None]:
    """Somebody else holds the tables."""
    if kind == "sqlite":
        other = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None, timeout=30)
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")
        other.close()
    else:
        with psycopg.connect(database_url) as connection:
            connection.execute("LOCK TABLE xai_jobs IN ACCESS EXCLUSIVE MODE")
            yield
            connection.rollback()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 3 MB; skips where mounting is not permitted."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "gowhy-test", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take what is left of a disk."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    return ballast


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_the_databases_disk_is_full(kind: str, small_disk: Path, tmp_path: Path) -> None:
    service, history = Running(tmp_path, f"sqlite:///{small_disk / 'queue.sqlite3'}"), History(bound=1000)
    queue = service.queue()
    try:
        service.start("--role", "worker")
        ready(queue, 1)
        with submitting(queue, history) as refusals:
            time.sleep(3)
            ballast = fill(small_disk)
            time.sleep(4)
            assert refusals, "a full disk was not noticed"
            ballast.unlink()
            time.sleep(3)
        queue.ping()
        conclude(service, queue, history, kind)
    finally:
        service.destroy()
        queue.close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_the_volume_is_full(kind: str, database_url: str, small_disk: Path, tmp_path: Path) -> None:
    service = Running(tmp_path, database_url, GOWHY_XAI_OUT=str(small_disk), GOWHY_XAI_MAX_ATTEMPTS="100")
    service.out = small_disk
    history, queue = History(bound=1000), service.queue()
    try:
        service.start("--role", "worker")
        ready(queue, 1)
        with submitting(queue, history):
            time.sleep(3)
            ballast = fill(small_disk)
            time.sleep(4)
            codes = {job.error.code for job in queue.list(state=JobState.RUNNING).jobs if job.error is not None}
            assert codes == {"cannot_write"}, service.log_tail()
            ballast.unlink()
        conclude(service, queue, history, kind)
        assert len(list((small_disk / RUN_ID / "xai").iterdir())) == len(history.acknowledged)
    finally:
        service.destroy()
        queue.close()
