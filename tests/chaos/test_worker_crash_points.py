"""SIGKILL at every named point of a durable step: the restarted service ends every job, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.xai_worker.folder import sweep_staging
from services.xai_worker.queue.base import JobState
from services.xai_worker.queue.crash import POINTS
from services.xai_worker.queue.engine import entry_id
from services.xai_worker.queue.sql_queue import SqlQueue
from tests.chaos.conftest import count
from tests.chaos.history import RUN_ID, History, asked, settle
from tests.chaos.running import REPOSITORY, Running

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
FEW = int(os.environ.get("GOWHY_WORKER_KILLS", "20")) < 50  # then each point is met on one of the two databases


class Scene:
    """One service that will be killed once, at one point."""

    def __init__(self, folder: Path, database_url: str, point: str) -> None:
        self.point, self.mark = point, folder / "crashed"
        self.service = Running(folder, database_url, GOWHY_XAI_DRAIN_S="0.3", GOWHY_LIGHT_SECONDS="0.2")
        self.queue: SqlQueue = self.service.queue()
        self.history = History(bound=100)
        self.crash = {"GOWHY_XAI_CRASH_AT": point, "GOWHY_XAI_CRASH_MARK": str(self.mark)}

    def submit(self, key: str, **request: object) -> str:
        job_id = self.queue.submit(asked(key, **request)).job.id
        self.history.answer(key, job_id)
        return job_id

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A call that crashes at the point, unless it has been reached before."""
        return subprocess.run(
            [sys.executable, "-m", "tests.chaos.calls", *arguments], cwd=REPOSITORY,
            env=self.service.environment | self.crash, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def worker(self, **environment: str) -> subprocess.Popen[bytes]:
        return self.service.start("--role", "worker", **(self.crash | environment))

    def until(self, what, timeout_s: float = 40) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < deadline, f"{self.point} was not reached\n{self.service.log_tail()}"
            time.sleep(0.05)

    def crashes(self, worker: subprocess.Popen[bytes]) -> None:
        """Wait for the worker's death at the point, and start it again."""
        self.until(self.mark.exists)
        if not self.point.startswith("child."):
            assert worker.wait(20) == -signal.SIGKILL
            self.worker()

    def running(self, job_id: str) -> bool:
        return self.queue.get(job_id).state is JobState.RUNNING and bool(self.service.pids("child"))


@pytest.fixture(params=POINTS)
def scene(request: pytest.FixtureRequest, kind: str, database_url: str, tmp_path: Path) -> Iterator[Scene]:
    point = str(request.param)
    if FEW and (POINTS.index(point) + ["sqlite", "postgres"].index(kind)) % 2:
        pytest.skip("met on the other database; WORKER_KILLS=50 and more meet it on both")
    made = Scene(tmp_path, database_url, point)
    yield made
    made.service.destroy()
    made.queue.close()


def test_a_kill_at_this_point_loses_and_repeats_nothing(scene: Scene, kind: str) -> None:
    prepare(scene)
    settle(scene.history, scene.queue, scene.service.out, timeout_s=60)
    if (stopped := scene.service.folder / "paused").exists():
        for pid in map(int, stopped.read_text().split()):
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)
        sweep_staging(scene.service.out / RUN_ID / "xai", older_than_s=0)  # a worker does so every ten minutes
    verdict = scene.history.check(scene.queue, scene.service.out, scene.service.audit)
    count(kind, kills=1, acknowledged=verdict.acknowledged, lost=len(verdict.lost), published_twice=len(verdict.twice))
    verdict.hold()
    assert scene.mark.exists(), "nothing was killed"


def prepare(scene: Scene) -> None:
    """Bring the service to the point; it is killed there, and running again afterwards."""
    step = scene.point.partition(".")[0]
    if step == "submit":
        assert scene.call("submit", "k").returncode == -signal.SIGKILL
        left = len(scene.queue.list().jobs)
        assert left == (0 if scene.point == "submit.before_commit" else 1)
        for _ in range(2):
            scene.history.answer("k", scene.call("submit", "k").stdout.strip())
        assert len(scene.queue.list().jobs) == 1
        scene.worker()
    elif step == "cancel":
        job_id = scene.submit("k")
        assert scene.call("cancel", job_id).returncode == -signal.SIGKILL
        scene.worker()
    elif step == "hand_back":
        job_id = scene.submit("k", seconds=3)
        worker = scene.worker()
        scene.until(lambda: scene.running(job_id))
        worker.terminate()
        scene.crashes(worker)
    elif step == "reconcile":
        job_id = scene.submit("k")
        scene.queue.dispatcher.withdraw([entry_id(job_id, 1)])
        scene.crashes(scene.worker())
    elif step == "seal":
        seal(scene)
    else:
        scene.submit("k", **({"raises": "OSError", "failures": 1} if step == "retry" else {}))
        scene.submit("l")
        scene.crashes(scene.worker())


def seal(scene: Scene) -> None:
    """A child stops after it was allowed to publish; its worker dies; the job is cancelled."""
    job_id = scene.submit("k")
    paused = scene.service.folder / "pause"
    first = scene.worker(GOWHY_LIGHT_PAUSE="granted", GOWHY_LIGHT_PAUSE_MARK=str(paused))
    scene.until(paused.exists)
    (scene.service.folder / "paused").write_text(" ".join(map(str, scene.service.pids("child"))))
    assert scene.queue.cancel(job_id).cancel_requested
    first.kill()
    first.wait()
    scene.crashes(scene.worker())
