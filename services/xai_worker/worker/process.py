"""The child process of one attempt, seen from the worker."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.xai_worker.child import DO_NOT, PUBLISH, ChildTask

CHILD = (sys.executable, "-m", "services.xai_worker.child")
REPOSITORY = Path(__file__).resolve().parents[3]
MEMORY_EVENTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


class ChildProcess:
    """Starts a child, hears its messages, and ends it.

    Args:
        task: what it does.
        command: what is run; the descriptor for its messages is appended.
    """

    def __init__(self, task: ChildTask, command: Sequence[str] = CHILD) -> None:
        reading, writing = os.pipe()
        self._kills = out_of_memory_kills()
        try:
            # A session of its own: a terminal's Ctrl-C is for the worker, and the group can be ended as a whole.
            self._process = subprocess.Popen(
                [*command, str(writing)],
                stdin=subprocess.PIPE,
                stdout=sys.stderr,
                cwd=REPOSITORY,
                pass_fds=(writing,),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        self._messages, self._rest = reading, b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(reading, selectors.EVENT_READ)
        self._write(task.line())

    @property
    def pid(self) -> int:
        """Of the child, and of its group."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """True when the child is gone; its last messages may still be unread."""
        return self._process.poll() is not None

    @property
    def killed_by(self) -> int | None:
        """The signal that ended it, if one did."""
        code = self._process.returncode
        return -code if code is not None and code < 0 else None

    @property
    def ran_out_of_memory(self) -> bool:
        """True when the kernel has killed some process for memory meanwhile, and this one by SIGKILL."""
        return self.killed_by == signal.SIGKILL and out_of_memory_kills() > self._kills

    def messages(self, wait_s: float) -> list[dict[str, Any]]:
        """What it said since the last call; waits for something, at most so long."""
        if not self._selector.get_map():
            time.sleep(0 if self.ended else min(wait_s, 0.05))
            return []
        if not self._selector.select(wait_s):
            return []
        block = os.read(self._messages, 1 << 16)
        if not block:
            self._selector.unregister(self._messages)
        *lines, self._rest = (self._rest + block).split(b"\n")
        return [json.loads(line) for line in lines if line]

    def last_messages(self) -> list[dict[str, Any]]:
        """What an ended child had said and nobody had read."""
        found: list[dict[str, Any]] = []
        while self._selector.get_map() and self._selector.select(0):
            found += self.messages(0)
        return found

    def answer(self, publish: bool) -> None:
        """Tell it whether it may publish."""
        self._write(PUBLISH if publish else DO_NOT)

    def stop(self, grace_s: float) -> None:
        """SIGTERM, then SIGKILL to its whole group; returns when it is gone."""
        if not self.ended:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to its group; returns when it is gone."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Close the pipes."""
        self._selector.close()
        os.close(self._messages)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died; the caller will see that


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for memory: in this control group, or on this machine."""
    for path in MEMORY_EVENTS:
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
