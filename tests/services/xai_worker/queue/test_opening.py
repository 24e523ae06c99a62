"""Where the database may lie, what is said when it is away, and what is forgotten."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from services.xai_worker.queue import opening
from services.xai_worker.queue.base import JobState, NoSuchJob, StoreDown
from services.xai_worker.queue.database import Database, sqlalchemy_url
from services.xai_worker.queue.ledger import Ledger
from services.xai_worker.queue.opening import check_local, filesystem_of
from services.xai_worker.queue.retention import forget_old
from services.xai_worker.settings import WorkerSettings
from shared.errors import CannotWrite, ConfigError
from tests.chaos.history import asked
from tests.services.xai_worker.queue.conftest import OpenQueue, claim

MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/export /mnt/lab\\040share nfs4 rw 0 0
tmpfs /mnt/lab\\040share/local tmpfs rw 0 0
//host/x /mnt/cifs cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", "ext4"), ("/mnt/lab share/q", "nfs4"), ("/mnt/lab share", "nfs4"),
        ("/mnt/lab share/local/q", "tmpfs"), ("/mnt/lab sharepoint", "ext4"), ("/mnt/cifs/a/b", "cifs"),
    ],
)  # fmt: skip
def test_the_filesystem_of_a_path(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert filesystem_of(Path(path), mounts) == kind


def test_sqlite_on_a_network_filesystem_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {tmp_path.resolve()} nfs rw 0 0\n")
    monkeypatch.setattr(opening, "filesystem_of", lambda path: filesystem_of(path, mounts))
    with pytest.raises(ConfigError, match=r"network filesystem \(nfs\)"):
        check_local(tmp_path / "q.sqlite3", tmp_path / "out")
    monkeypatch.undo()
    check_local(tmp_path / "q.sqlite3", tmp_path / "out")


def test_sqlite_inside_the_volume_is_refused_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for folder in ("out", "out/run", "link"):
        with pytest.raises(ConfigError, match="inside the volume"):
            check_local(tmp_path / folder / "q.sqlite3", tmp_path / "out")


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="file"):
        check_local(tmp_path / "file" / "q.sqlite3", tmp_path / "out")


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="GOWHY_XAI_DATABASE_URL"):
        sqlalchemy_url(url)


def test_a_password_is_in_no_message(tmp_path: Path) -> None:
    database = Database("postgresql://me:secret-word@127.0.0.1:1/nothing")
    with pytest.raises(StoreDown) as raised, database.read():
        pass
    assert "secret-word" not in str(raised.value)
    assert "secret-word" not in repr(database.url)


def test_a_lock_that_is_held_too_long_is_a_store_that_is_down(tmp_path: Path) -> None:
    file = tmp_path / "q.sqlite3"
    database = Database(f"sqlite:///{file}", busy_timeout_ms=100)
    with database.change() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    for look in (database.read, database.write):
        with pytest.raises(StoreDown, match="locked"), look() as connection:
            connection.exec_driver_sql("SELECT * FROM t")
    assert time.monotonic() - began < 5
    other.execute("ROLLBACK")
    other.close()
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    database.close()


def test_sqlite_keeps_the_rollback_journal_and_syncs(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'q.sqlite3'}")
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.close()


def test_finished_jobs_are_forgotten_after_the_retention_time(open_sql: OpenQueue) -> None:
    queue = open_sql()
    ledger = Ledger(queue.database, queue.dispatcher)
    old, young, waiting = (queue.submit(asked(key)).job.id for key in ("old", "young", "waiting"))
    for job_id in (old, young):
        begun = claim(queue, job_id)
        assert begun is not None
        ledger.finish(begun, JobState.SUCCEEDED, result="r")
    with queue.database.change() as connection:
        connection.exec_driver_sql(f"UPDATE xai_jobs SET finished_at = finished_at - 900000 WHERE id = '{old}'")
        connection.exec_driver_sql("UPDATE xai_jobs SET created_at = created_at - 900000")
    assert forget_old(queue.database, queue.dispatcher, days=10) == 1
    assert forget_old(queue.database, queue.dispatcher, days=10) == 0
    with pytest.raises(NoSuchJob):
        queue.get(old)
    assert {job.id for job in queue.list().jobs} == {young, waiting}
    assert queue.submit(asked("old")).job.id != old  # its key is free again


@pytest.mark.parametrize(
    ("name", "value"), [("QUEUE_BOUND", "0"), ("CONCURRENCY", "many"), ("LEASE_S", "-1"), ("ENV_POLICY", "lax")]
)
def test_an_impossible_setting_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"GOWHY_XAI_{name}"):
        WorkerSettings.from_environment({f"GOWHY_XAI_{name}": value})


def test_settings_survive_the_way_to_a_child_process(tmp_path: Path) -> None:
    settings = WorkerSettings(out=tmp_path, queue_bound=7, lease_s=1.5)
    assert WorkerSettings.from_environment(settings.environment()) == settings
    assert WorkerSettings.from_environment({"GOWHY_XAI_QUEUE_BOUND": "3"}, queue_bound=9).queue_bound == 9
