"""Processes that are stopped, taken for dead, and wake: what they do then changes nothing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.xai_worker.folder import SEAL, sweep_staging
from services.xai_worker.queue.base import JobState
from shared.errors import TryAgain
from tests.chaos.conftest import count
from tests.chaos.history import RUN_ID, History, asked, settle
from tests.chaos.running import Running

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
LEASE = {"GOWHY_XAI_LEASE_S": "2", "GOWHY_XAI_HEARTBEAT_S": "0.3", "GOWHY_XAI_CONCURRENCY": "1"}


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path, database_url, **LEASE)
    yield running
    running.destroy()


def until(what: Callable[[], object], service: Running, timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, service.log_tail()
        time.sleep(0.05)


def check(service: Running, queue, history: History, kind: str) -> None:
    sweep_staging(service.out / RUN_ID / "xai", older_than_s=0)
    verdict = history.check(queue, service.out, service.audit)
    count(kind, acknowledged=verdict.acknowledged, lost=len(verdict.lost), published_twice=len(verdict.twice))
    verdict.hold()


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
@pytest.mark.parametrize("also_child", [False, True], ids=["worker", "worker_and_child"])
def test_a_stopped_worker_wakes_after_adoption(service: Running, kind: str, also_child: bool) -> None:
    queue, history = service.queue(), History(bound=100)
    job_id = queue.submit(asked("k", seconds=1.5)).job.id
    history.answer("k", job_id)
    zombie = service.start("--role", "worker")
    until(lambda: service.pids("child"), service)
    stopped = [zombie.pid, *(service.pids("child") if also_child else [])]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    service.start("--role", "worker")
    settle(history, queue, service.out, timeout_s=60)
    job = queue.get(job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2), service.log_tail()
    published = history.folders[job_id]
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    # It finds its slot taken, kills its child, and ends; its supervisor would start a fresh one.
    assert zombie.wait(20) == TryAgain.exit_code
    until(lambda: len(service.pids("child")) == 0, service)
    check(service, queue, history, kind)
    assert history.folders[job_id] == published
    # The worker that adopted goes on.
    later = queue.submit(asked("l")).job.id
    until(lambda: queue.get(later).state.final, service)
    queue.close()


def test_a_child_that_stops_with_leave_to_publish_finds_the_result_there(service: Running, kind: str) -> None:
    queue, history, _mark, zombie, child = paused(service)
    job_id = next(iter(history.acknowledged))
    zombie.kill()
    zombie.wait()
    count(kind, kills=1)
    service.start("--role", "worker")
    settle(history, queue, service.out, timeout_s=60)
    assert queue.get(job_id).state is JobState.SUCCEEDED, service.log_tail()
    wake(child)
    check(service, queue, history, kind)
    queue.close()


def test_a_child_that_stops_with_leave_to_publish_finds_the_cancelled_job_sealed(service: Running, kind: str) -> None:
    queue, history, _mark, zombie, child = paused(service)
    job_id = next(iter(history.acknowledged))
    assert queue.cancel(job_id).cancel_requested
    history.cancels.add(job_id)
    zombie.kill()
    zombie.wait()
    count(kind, kills=1)
    service.start("--role", "worker")
    settle(history, queue, service.out, timeout_s=60)
    assert queue.get(job_id).state is JobState.CANCELLED, service.log_tail()
    assert (service.out / RUN_ID / "xai" / job_id / SEAL).exists()
    wake(child)
    check(service, queue, history, kind)
    # Asked for again, the seal is broken and the job succeeds.
    queue.retry(job_id)
    settle(history, queue, service.out, timeout_s=60)
    assert queue.get(job_id).state is JobState.SUCCEEDED, service.log_tail()
    check(service, queue, history, kind)
    queue.close()


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
def test_the_supervisor_replaces_a_stopped_worker(service: Running, kind: str) -> None:
    queue, history = service.queue(), History(bound=100)
    service.start()
    until(lambda: service.pids("worker"), service)
    job_id = queue.submit(asked("k", seconds=1)).job.id
    history.answer("k", job_id)
    until(lambda: service.pids("child"), service)
    (worker,) = service.pids("worker")
    os.kill(worker, signal.SIGSTOP)
    settle(history, queue, service.out, timeout_s=60)
    assert queue.get(job_id).state is JobState.SUCCEEDED, service.log_tail()
    assert service.pids("worker") != [worker]
    count(kind, kills=1)
    check(service, queue, history, kind)
    queue.close()


def paused(service: Running):
    """A job whose child was allowed to publish and stopped right then, and its worker."""
    queue, history, mark = service.queue(), History(bound=100), service.folder / "pause"
    history.answer("k", queue.submit(asked("k")).job.id)
    environment = {"GOWHY_LIGHT_PAUSE": "granted", "GOWHY_LIGHT_PAUSE_MARK": str(mark)}
    worker = service.start("--role", "worker", **environment)
    until(mark.exists, service)
    (child,) = service.pids("child")
    until(lambda: psutil.Process(child).status() == psutil.STATUS_STOPPED, service)
    return queue, history, mark, worker, child


def wake(child: int) -> None:
    os.kill(child, signal.SIGCONT)
    deadline = time.monotonic() + 20
    while psutil.pid_exists(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(child), "the orphan lives"
