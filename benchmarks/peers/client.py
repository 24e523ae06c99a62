"""A peer in another interpreter: started once, then asked for one run at a time, so that rounds interleave.

A peer's script reads one JSON line with its task, answers `ready`, and then answers each `run` with the
processor seconds it took. OpenVINO pins another NumPy than gowhy's, and faiss is no dependency of gowhy.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

VARIABLE = "GOWHY_PEERS_PYTHON"
HERE = Path(__file__).parent


class PeerMissing(Exception):
    """The peer cannot be asked here, and why."""


class Peer:
    """A running peer; use it as a context manager.

    Args:
        script: file beside this one.
        task: what the script has to know; paths as text.
        threads: it may use.

    Raises:
        PeerMissing: no interpreter was named, or it lacks the package.
    """

    def __init__(self, script: str, task: dict[str, Any], threads: int = 1) -> None:
        python = os.environ.get(VARIABLE)
        if not python:
            raise PeerMissing(f"{VARIABLE} names no interpreter that has the peers of docs/performance.md")
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": ""}
        self.process = subprocess.Popen(
            [python, str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            self._ask(json.dumps(task))
        except PeerMissing:
            self.process.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def run(self) -> float:
        """Processor seconds of one run, by the peer's own clock."""
        return float(self._ask("run"))

    def _ask(self, line: str) -> str:
        if self.process.stdin is None or self.process.stdout is None:
            raise PeerMissing("the peer has no pipes")
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer below says why
        # Libraries may print to the same pipe; an answer has this mark.
        for answer in self.process.stdout:
            if answer.startswith("answer "):
                return answer.removeprefix("answer ").strip()
        stderr = self.process.stderr.read() if self.process.stderr else ""
        last = stderr.strip().splitlines()[-1:] or ["no message"]
        raise PeerMissing(f"the peer ended: {last[0]}")
