"""A child process that explains nothing but publishes like the real one: for tests that kill hundreds of them.

`python -m tests.fakes.light_child FD`. What it does stands in its environment (GOWHY_LIGHT_*) or in the
request, under names that HTTP refuses: nothing in the service can start it.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from services.xai_worker.child import ChildTask, Report, main
from services.xai_worker.folder import Gate, published, read_complete, write_result

RAISED = {"MemoryError": MemoryError, "OSError": OSError, "ValueError": ValueError}


def note(kind: str, task: ChildTask) -> None:
    """One line in the audit file, on disk before this returns."""
    if path := os.environ.get("GOWHY_LIGHT_AUDIT"):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        line = {
            "kind": kind, "job": task.job_id, "attempt": task.attempt, "pid": os.getpid(), "at": time.time(),
            "host": platform.node(),
        }  # fmt: skip
        os.write(descriptor, json.dumps(line).encode() + b"\n")
        os.fsync(descriptor)
        os.close(descriptor)


def pause_once(where: str) -> None:
    """Stop this process at a point, the first one to get there, like a machine that hangs."""
    if os.environ.get("GOWHY_LIGHT_PAUSE") == where:
        try:
            os.close(os.open(os.environ["GOWHY_LIGHT_PAUSE_MARK"], os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGSTOP)


def explain_light(task: ChildTask, gate: Gate, report: Report) -> None:
    """Take some seconds, report some steps, publish a file that depends on the job only; or fail as asked."""
    asked = task.request
    final = Path(task.out) / Path(task.manifest).parent / "xai" / task.job_id
    note("begin", task)
    if read_complete(final) is not None:
        return

    def ask() -> None:
        gate.ask()
        pause_once("granted")

    def renamed() -> None:
        note("renamed", task)
        gate.renamed()

    with published(final, replace(gate, ask=ask, renamed=renamed)) as staging:
        steps = int(asked.get("steps", 3))
        seconds = float(asked.get("seconds", os.environ.get("GOWHY_LIGHT_SECONDS", "0.1")))
        for step in range(steps):
            report({"done": step, "total": steps, "protein": f"P{step}", "model": "cnn", "method": "light"})
            time.sleep(seconds / steps)
        fails = asked.get("raises")
        if fails and task.attempt <= int(asked.get("failures", 1_000)):
            raise RAISED[fails]("as asked")
        answer = {"job": task.job_id, "asked": dict(asked)}
        (staging / "explanations.jsonl").write_text(json.dumps(answer, sort_keys=True) + "\n")
        write_result(staging, {"schema_version": 1, "status": "complete"})


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], explain_light))
