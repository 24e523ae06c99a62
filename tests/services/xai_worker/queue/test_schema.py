"""Databases of earlier releases, of later ones, and of this one."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.xai_worker.queue.base import JobState
from services.xai_worker.queue.database import Database
from services.xai_worker.queue.ledger import Ledger
from services.xai_worker.queue.opening import open_queue
from services.xai_worker.queue.schema import METADATA, STEPS, prepare
from services.xai_worker.settings import WorkerSettings
from shared.errors import ConfigError
from tests.services.xai_worker.queue.conftest import OpenQueue

REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.fixture
def released(tmp_path: Path) -> str:
    """The database that the release with schema 1 left; its URL."""
    file = tmp_path / "released.sqlite3"
    connection = sqlite3.connect(file)
    connection.executescript((REPOSITORY / "tests/golden/queue_v1.sql").read_text())
    connection.close()
    return f"sqlite:///{file}"


def test_the_tables_are_what_the_steps_make(open_sql: OpenQueue) -> None:
    inspector = sa.inspect(open_sql().database.engine)
    for table in METADATA.sorted_tables:
        found = {column["name"]: bool(column["nullable"]) for column in inspector.get_columns(table.name)}
        wanted = {column.name: bool(column.nullable) for column in table.columns}
        # SQLite reports a text primary key as nullable.
        keys = {column.name for column in table.primary_key}
        assert {k: v for k, v in found.items() if k not in keys} == {k: v for k, v in wanted.items() if k not in keys}
        assert found.keys() == wanted.keys()


def test_the_previous_release_s_database_is_opened_and_its_jobs_go_on(released: str, tmp_path: Path) -> None:
    database = Database(released)
    assert prepare(database) == 1
    assert prepare(database) == len(STEPS)
    database.close()
    queue = open_queue(WorkerSettings(database_url=released, out=tmp_path / "out"))
    assert {job.id: job.state for job in queue.list().jobs} == {
        "waiting1": JobState.QUEUED,
        "running2": JobState.RUNNING,
        "done3": JobState.SUCCEEDED,
    }
    assert queue.stats().recoveries == 4
    assert [event.kind for event in queue.events("waiting1")] == ["queued"]
    ledger = Ledger(queue.database, queue.dispatcher)
    found = ledger.standing("running2", 1)
    assert found is not None
    assert (found.interrupted, found.may_have_published) == (True, False)
    claim = ledger.claim(found)
    assert claim is not None
    assert (claim.job.attempt, claim.job.failures) == (2, 1)
    queue.close()


def test_a_worker_runs_the_previous_release_s_jobs(released: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    program = (
        "import sys, threading, time, os, signal\n"
        "from services.xai_worker.settings import WorkerSettings\n"
        "from services.xai_worker.worker.service import run_worker\n"
        f"settings = WorkerSettings(database_url={released!r}, out={str(tmp_path / 'out')!r}, poll_s=0.1)\n"
        "threading.Timer(8, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "sys.exit(run_worker(settings, (sys.executable, '-m', 'tests.fakes.light_child')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    queue = open_queue(WorkerSettings(database_url=released, out=tmp_path / "out"))
    assert {job.state for job in queue.list().jobs} == {JobState.SUCCEEDED}, done.stderr
    queue.close()


def test_a_later_release_s_database_is_refused(open_sql: OpenQueue, database_url: str) -> None:
    queue = open_sql()
    with queue.database.change() as connection:
        connection.exec_driver_sql("UPDATE xai_meta SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(ConfigError, match="schema 99"):
        open_sql()


def test_many_processes_may_open_a_new_database_at_once(kind: str, tmp_path: Path, request) -> None:
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path / 'new.sqlite3'}"
    else:
        url = request.getfixturevalue("postgres_server").create(f"new{tmp_path.name.lower()}")
    failures: list[Exception] = []

    def open_one() -> None:
        try:
            open_queue(WorkerSettings(database_url=url, out=tmp_path / "out")).close()
        except Exception as error:  # noqa: BLE001 - a thread's failure is shown by the test
            failures.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
