"""The bound holds between processes, where no lock of one process can help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.services.xai_worker.queue.conftest import OpenQueue

REPOSITORY = Path(__file__).resolve().parents[4]
PROCESSES, EACH, BOUND = 4, 15, 25
SUBMIT = f"""
import sys, threading
from services.xai_worker.queue.base import QueueFull
from services.xai_worker.queue.opening import open_queue
from services.xai_worker.settings import WorkerSettings
from tests.chaos.history import asked
queue = open_queue(WorkerSettings(database_url=sys.argv[1], out=sys.argv[2], queue_bound={BOUND}))
print("ready", flush=True)
sys.stdin.readline()
accepted = []
def submit(start):
    for number in range(start, {EACH}, 3):
        try:
            accepted.append(queue.submit(asked(f"{{sys.argv[3]}}-{{number}}")).job.id)
        except QueueFull:
            pass
threads = [threading.Thread(target=submit, args=(start,)) for start in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(accepted))
queue.close()
"""


def test_many_processes_are_given_exactly_the_bound(open_sql: OpenQueue, database_url: str, tmp_path: Path) -> None:
    queue = open_sql(queue_bound=BOUND)
    submitters = [
        subprocess.Popen(
            [sys.executable, "-c", SUBMIT, database_url, str(tmp_path / "out"), str(number)],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for process in submitters:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    accepted = sum(int(process.communicate("go\n")[0]) for process in submitters)
    assert [process.returncode for process in submitters] == [0] * PROCESSES
    assert accepted == BOUND
    assert queue.stats().waiting == BOUND
    assert len(queue.list(limit=100).jobs) == BOUND
