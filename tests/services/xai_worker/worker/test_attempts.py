"""One attempt after another, with real child processes: what ends, what is tried again, what is handed back."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.xai_worker.folder import SEAL, seal
from services.xai_worker.queue.base import JobRecord, JobState
from services.xai_worker.queue.ledger import Ledger
from services.xai_worker.queue.opening import open_queue
from services.xai_worker.queue.sql_queue import SqlQueue
from services.xai_worker.settings import WorkerSettings
from services.xai_worker.worker.attempts import Attempts
from services.xai_worker.worker.housekeeping import Housekeeping, result_folder
from services.xai_worker.worker.lease import FileLease
from tests.chaos.history import RUN_ID, asked, folder_digest

LIGHT = (sys.executable, "-m", "tests.fakes.light_child")


class Bench:
    """A queue on SQLite and the attempts of one worker, driven by hand."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.out = folder / "out"
        self.out.mkdir()
        values = {
            "out": self.out, "database_url": f"sqlite:///{folder / 'q.sqlite3'}", "kill_grace_s": 0.5,
            "backoff_base_s": 0.01, "backoff_cap_s": 0.02, **settings,
        }  # fmt: skip
        self.settings = WorkerSettings.model_validate(values)
        self.queue: SqlQueue = open_queue(self.settings)
        self.ledger = Ledger(self.queue.database, self.queue.dispatcher)
        self.lease = FileLease(self.queue.database, self.settings, on_lost=lambda: None)
        self.lease.acquire()
        self.attempts = Attempts(self.ledger, self.lease, self.settings, LIGHT)

    def submit(self, **request: object) -> str:
        return self.queue.submit(asked(seconds=request.pop("seconds", 0.05), **request)).job.id

    def step(self, job_id: str) -> JobRecord:
        """Run the job's current entry."""
        found = next((found for found in self.ledger.open_jobs() if found.job.id == job_id), None)
        assert found is not None
        self.attempts.run(job_id, found.dispatch)
        return self.queue.get(job_id)

    def in_background(self, job_id: str) -> threading.Thread:
        """The same in a thread; returns when the child runs."""
        thread = threading.Thread(target=self.step, args=(job_id,))
        thread.start()
        self.until(lambda: self.queue.get(job_id).progress is not None)
        return thread

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not what():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def child(self) -> int:
        (child,) = self.attempts._children
        return child.pid

    def folder(self, job_id: str) -> Path:
        return result_folder(self.out, RUN_ID, job_id)

    def close(self) -> None:
        self.lease.release()
        self.queue.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**settings: object) -> Bench:
        made.append(Bench(tmp_path, **settings))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


def test_a_job_succeeds_and_tells_each_step(make) -> None:
    bench = make()
    job_id = bench.submit()
    job = bench.step(job_id)
    assert (job.state, job.attempt, job.failures, job.result) == (JobState.SUCCEEDED, 1, 0, f"{RUN_ID}/xai/{job_id}")
    told = [dict(event.data) for event in bench.queue.events(job_id) if event.kind == "progress"]
    assert [step["protein"] for step in told] == ["P0", "P1", "P2"]
    assert [path.name for path in (bench.out / RUN_ID / "xai").iterdir()] == [job_id]


def test_a_killed_child_costs_one_attempt_and_the_result_is_the_same(make) -> None:
    bench = make()
    job_id = bench.submit(seconds=0.6)
    thread = bench.in_background(job_id)
    os.kill(bench.child(), signal.SIGKILL)
    thread.join()
    job = bench.queue.get(job_id)
    assert (job.state, job.failures) == (JobState.RUNNING, 1)
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == ("killed", True)
    assert bench.step(job_id).state is JobState.SUCCEEDED
    first = folder_digest(bench.folder(job_id))
    # Undisturbed, another job of the same request differs in its id only.
    other = bench.submit(seconds=0.6)
    bench.step(other)
    lines = [json.loads((bench.folder(i) / "explanations.jsonl").read_text()) for i in (job_id, other)]
    assert lines[0]["asked"] == lines[1]["asked"]
    assert folder_digest(bench.folder(job_id)) == first


def test_what_cannot_pass_is_not_tried_again(make) -> None:
    bench = make()
    job = bench.step(bench.submit(raises="ValueError"))
    assert (job.state, job.attempt, job.failures) == (JobState.FAILED, 1, 1)
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == ("internal", False)
    assert "as asked" not in job.error.message


def test_what_may_pass_is_tried_again_with_a_delay(make) -> None:
    bench = make()
    job_id = bench.submit(raises="OSError", failures=1)
    job = bench.step(job_id)
    assert (job.state, job.failures) == (JobState.RUNNING, 1)
    assert job.retry_at is not None
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == ("cannot_write", True)
    job = bench.step(job_id)
    assert (job.state, job.attempt, job.failures, job.error) == (JobState.SUCCEEDED, 2, 1, None)


def test_a_poison_job_stops_after_three_attempts_and_says_why(make) -> None:
    bench = make()
    job_id = bench.submit(raises="MemoryError")
    for _ in range(3):
        job = bench.step(job_id)
    assert (job.state, job.attempt, job.failures) == (JobState.FAILED, 3, 3)
    assert job.error is not None
    assert job.error.code == "out_of_memory"
    assert "given up after 3 failed attempts" in job.error.message
    assert "out of memory" in job.error.message


def test_each_attempt_that_runs_out_of_memory_halves_the_batches_of_the_next(make, monkeypatch) -> None:
    bench = make()
    halvings = []
    task = bench.attempts._task
    monkeypatch.setattr(bench.attempts, "_task", lambda claim: halvings.append(claim.out_of_memory) or task(claim))
    job_id = bench.submit(raises="MemoryError", failures=2)
    for _ in range(3):
        bench.step(job_id)
    assert halvings == [0, 1, 2]


def test_a_job_that_kills_its_worker_stops_after_three(make) -> None:
    bench = make()
    job_id = bench.submit()
    for _ in range(3):
        (found,) = bench.ledger.open_jobs()
        assert bench.ledger.claim(found) is not None  # and the worker is gone
    job = bench.step(job_id)
    assert (job.state, job.attempt, job.failures) == (JobState.FAILED, 3, 3)
    assert job.error is not None
    assert job.error.code == "worker_died"


def test_a_running_job_is_cancelled_and_never_publishes(make) -> None:
    bench = make()
    job_id = bench.submit(seconds=30)
    thread = bench.in_background(job_id)
    child = bench.child()
    assert bench.queue.cancel(job_id).cancel_requested
    thread.join(10)
    assert not thread.is_alive()
    assert bench.queue.get(job_id).state is JobState.CANCELLED
    assert not bench.folder(job_id).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_an_attempt_that_takes_too_long_is_stopped_and_tried_again(make) -> None:
    bench = make(job_timeout_s=0.5)
    job_id = bench.submit(seconds=30)
    job = bench.step(job_id)
    assert job.state is JobState.RUNNING
    assert job.error is not None
    assert job.error.code == "timed_out"


def test_a_child_that_hangs_is_killed(make) -> None:
    bench = make(job_timeout_s=0.8)
    job_id = bench.submit(seconds=30)
    thread = bench.in_background(job_id)
    os.kill(bench.child(), signal.SIGSTOP)
    thread.join(10)
    assert not thread.is_alive()
    assert bench.queue.get(job_id).failures == 1


def test_while_draining_nothing_begins_and_what_runs_is_handed_back_uncounted(make) -> None:
    bench = make()
    running, waiting = bench.submit(seconds=30), bench.submit()
    thread = bench.in_background(running)
    bench.attempts.draining.set()
    bench.step(waiting)
    assert (bench.queue.get(waiting).state, bench.queue.get(waiting).attempt) == (JobState.QUEUED, 0)
    bench.attempts.handing_back.set()
    thread.join(10)
    job = bench.queue.get(running)
    assert (job.state, job.attempt, job.failures) == (JobState.RUNNING, 1, 0)
    entries = bench.ledger.entries()
    assert len(entries) == 2
    assert bench.ledger.dispatcher.alive(entries).keys() == entries.keys()


def test_a_result_that_stands_is_a_success_whatever_the_engine_says(make) -> None:
    bench = make()
    job_id = bench.submit()
    (found,) = bench.ledger.open_jobs()
    claim = bench.ledger.claim(found)
    assert claim is not None
    assert bench.ledger.grant(claim)
    outcome = bench.attempts._supervise(claim)  # it publishes, and the worker dies before it can say so
    assert outcome.error is None
    bench.ledger.dispatcher.withdraw(bench.ledger.entries())
    Housekeeping(bench.ledger, bench.lease, bench.settings).at_start()
    job = bench.queue.get(job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)


def test_a_lost_entry_is_dispatched_again(make) -> None:
    bench = make()
    job_id = bench.submit()
    bench.ledger.dispatcher.withdraw(bench.ledger.entries())
    Housekeeping(bench.ledger, bench.lease, bench.settings).at_start()
    assert bench.step(job_id).state is JobState.SUCCEEDED


def test_a_seal_of_somebody_who_was_late_costs_one_attempt_only(make) -> None:
    bench = make()
    job_id = bench.submit(seconds=3)
    thread = bench.in_background(job_id)
    assert seal(bench.folder(job_id), "cancelled")
    thread.join()
    job = bench.queue.get(job_id)
    assert (job.state, job.failures) == (JobState.RUNNING, 1)
    assert bench.step(job_id).state is JobState.SUCCEEDED
    assert not (bench.folder(job_id) / SEAL).exists()


def test_something_else_under_the_result_s_name_is_not_replaced(make) -> None:
    bench = make()
    job_id = bench.submit()
    bench.folder(job_id).mkdir(parents=True)
    (bench.folder(job_id) / "mine.txt").write_text("keep me")
    job = bench.step(job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "integrity"
    assert (bench.folder(job_id) / "mine.txt").read_text() == "keep me"
    assert str(bench.out) not in job.error.message


def test_a_link_under_the_result_s_name_is_refused(make, tmp_path: Path) -> None:
    bench = make()
    job_id = bench.submit()
    (tmp_path / "elsewhere").mkdir()
    bench.folder(job_id).parent.mkdir(parents=True)
    bench.folder(job_id).symlink_to(tmp_path / "elsewhere")
    job = bench.step(job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.code == "not_permitted"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_child_whose_worker_dies_ends_with_all_it_started(make, tmp_path: Path) -> None:
    bench = make()
    job_id = bench.submit(seconds=30)
    thread = bench.in_background(job_id)
    (child,) = bench.attempts._children
    assert child._process.stdin is not None
    os.close(os.dup(child._process.stdin.fileno()))
    child._process.stdin.close()  # what the kernel does for a dead worker
    thread.join(10)
    assert not thread.is_alive()
    assert bench.queue.get(job_id).failures == 1
