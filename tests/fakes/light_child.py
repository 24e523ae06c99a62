"""A child process that explains nothing but publishes like the real one: for tests that kill hundreds of them.

`python -m tests.fakes.light_child FD`. What it does is in the request, which HTTP would refuse: nothing in
the service can start it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from services.xai_worker.child import ChildTask, Report, main
from services.xai_worker.folder import Gate, published, read_complete, write_result


def explain_light(task: ChildTask, gate: Gate, report: Report) -> None:
    """Take `seconds`, say so in `steps`, publish a file that depends on the job only; fail as asked."""
    asked = task.request
    final = Path(task.out) / Path(task.manifest).parent / "xai" / task.job_id
    if read_complete(final) is not None:
        return
    with published(final, gate) as staging:
        steps = int(asked.get("steps", 3))
        for step in range(steps):
            report({"done": step, "total": steps, "protein": f"P{step}", "model": "cnn", "method": "light"})
            time.sleep(float(asked.get("seconds", 0.1)) / steps)
        if error := asked.get("raises"):
            raise {"MemoryError": MemoryError, "OSError": OSError, "ValueError": ValueError}[error]("as asked")
        answer = {"job": task.job_id, "asked": dict(asked)}
        (staging / "explanations.jsonl").write_text(json.dumps(answer, sort_keys=True) + "\n")
        write_result(staging, {"schema_version": 1, "status": "complete"})


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], explain_light))
