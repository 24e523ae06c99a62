"""A real job that was killed and run again gives the bytes of an undisturbed one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pipeline_runs import run

from services.xai_worker.folder import read_complete
from services.xai_worker.queue.base import JobState, Submission
from services.xai_worker.queue.opening import open_queue
from services.xai_worker.settings import WorkerSettings
from shared.digests import sha256_file
from tests.chaos.conftest import count
from tests.chaos.running import REPOSITORY

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1800)]
AGAIN = """
import sys
from pathlib import Path
from services.xai_worker.explain import Machine, explain_manifest
from services.xai_worker.request import ExplainRequest
from shared import env
lock, _ = env.enforce("warn")
machine = Machine(lock, "cpu", 1, quiet=True)
explain_manifest(Path(sys.argv[1]), ExplainRequest(limit=1), machine, job_id=sys.argv[2])
"""


def test_a_killed_and_repeated_job_gives_the_same_bytes(smoke_out: Path, tmp_path: Path) -> None:
    out = smoke_out
    run_id = (out / "latest").resolve().name
    settings = WorkerSettings(
        out=out, database_url=f"sqlite:///{tmp_path / 'q.sqlite3'}", poll_s=0.1, backoff_base_s=0.1, max_attempts=10,
        job_timeout_s=900,
    )  # fmt: skip
    environment = {**os.environ, **settings.environment(), "GOWHY_ENV_POLICY": "warn"}
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        worker = subprocess.Popen(
            [sys.executable, "-m", "services.xai_worker", "serve", "--role", "worker"], cwd=REPOSITORY,
            env=environment, stdin=subprocess.PIPE, stderr=stderr, start_new_session=True,
        )  # fmt: skip
    queue = open_queue(settings)
    try:
        asked = {"limit": 1}
        manifest = f"{run_id}/manifest.json"
        job_id = queue.submit(
            Submission(run_id=run_id, manifest=manifest, request=asked, owner="o", fingerprint="f",
                       manifest_sha256=sha256_file(out / manifest))
        ).job.id  # fmt: skip
        kills = 0
        for steps in (1, 3):  # once at its beginning, once in the middle
            wait(queue, job_id, lambda steps=steps: told(queue, job_id) >= steps, log)
            (child,) = subprocess.run(
                ["pgrep", "-P", str(worker.pid)], capture_output=True, text=True, check=True
            ).stdout.split()
            os.kill(int(child), signal.SIGKILL)
            kills += 1
            failures = kills
            wait(queue, job_id, lambda failures=failures: queue.get(job_id).failures >= failures, log)
        wait(queue, job_id, lambda: queue.get(job_id).state.final, log)
        job = queue.get(job_id)
        assert job.state is JobState.SUCCEEDED, (job.error, log.read_text()[-3000:])
        assert job.attempt == kills + 1
    finally:
        worker.kill()
        worker.wait()
        assert worker.stdin is not None
        worker.stdin.close()
        queue.close()
    final = out / run_id / "xai" / job_id
    killed = files(final)
    shutil.rmtree(final)
    again = run([sys.executable, "-c", AGAIN, str(out / manifest), job_id])
    assert again.returncode == 0, again.stderr[-3000:]
    assert read_complete(final) is not None
    assert files(final) == killed
    count("sqlite", kills=kills, acknowledged=1, lost=0, published_twice=0)


def told(queue, job_id: str) -> int:
    """Progress events of the current attempt."""
    kinds = [event.kind for event in queue.events(job_id)]
    return kinds[len(kinds) - kinds[::-1].index("attempt") :].count("progress") if "attempt" in kinds else 0


def wait(queue, job_id: str, what, log: Path, timeout_s: float = 900) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        assert not queue.get(job_id).state.final or queue.get(job_id).state is JobState.SUCCEEDED, queue.get(job_id)
        time.sleep(0.05)


def files(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
