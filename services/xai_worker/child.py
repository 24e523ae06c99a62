"""One attempt at a job, in a process of its own: a crash or a hung device costs this attempt, not the service.

`python -m services.xai_worker.child FD` reads a `ChildTask` as one line of JSON from standard input and
writes messages, one line of JSON each, to the descriptor. Before it publishes it says `ready` and waits:
one byte `P` allows it, `N` forbids it. Standard input closes when the worker dies; the child then ends too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from services.xai_worker import tracing
from services.xai_worker.folder import Gate, MayNotPublish
from services.xai_worker.queue.crash import crash_point
from shared.edge import EXIT_SIGTERM, Terminated
from shared.errors import CannotWrite, GowhyError, from_os_error

PUBLISH, DO_NOT = b"P", b"N"
EXIT_PARENT_DIED = 137


@dataclass(frozen=True, slots=True)
class ChildTask:
    """What a worker tells its child."""

    job_id: str
    attempt: int
    out: str  # root of the volume
    manifest: str  # relative to it
    manifest_sha256: str | None
    request: dict[str, Any]
    device: str
    threads: int
    env_policy: str | None
    batch_halvings: int
    traceparent: str | None

    def line(self) -> bytes:
        """One line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> ChildTask:
        """What `line` made."""
        return cls(**json.loads(line))


Report = Callable[[Mapping[str, Any]], None]
Explain = Callable[[ChildTask, Gate, Report], None]


class Parent:
    """The worker process at the other ends of the two pipes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._answer: bytes | None = None
        self._answered = threading.Event()

    def task(self) -> ChildTask:
        """Read the task, then watch: the parent's death is this process's."""
        line = b""
        while not line.endswith(b"\n"):
            block = os.read(0, 1 << 16)
            if not block:
                _end_group()
            line += block
        threading.Thread(target=self._watch, daemon=True).start()
        return ChildTask.parse(line)

    def say(self, kind: str, **data: Any) -> None:
        """One message; whole, because a line is shorter than a pipe's atomic write or read up to its end."""
        line = json.dumps({"kind": kind, **data}).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]

    def ask(self) -> None:
        """Wait for leave to publish.

        Raises:
            MayNotPublish: there is none.
        """
        crash_point("child.before_grant")
        self.say("ready")
        self._answered.wait()
        if self._answer != PUBLISH:
            raise MayNotPublish("the job was cancelled, or another attempt has taken over")
        crash_point("child.before_rename")

    def _watch(self) -> None:
        # os.read, not sys.stdin: its buffer's lock aborts the interpreter when a thread holds it at exit.
        while answer := os.read(0, 1):
            self._answer = answer
            self._answered.set()
        _end_group()


def main(argv: list[str], explain: Explain | None = None) -> int:
    """Run one attempt; `explain` is replaced by tests that want a cheap one."""
    signal.signal(signal.SIGTERM, _terminate)
    parent = Parent(int(argv[0]))
    task = parent.task()
    crash_point("child.started")
    gate = Gate(task.attempt, parent.ask, renamed=lambda: crash_point("child.after_rename"))
    try:
        (explain or explain_task)(task, gate, lambda step: parent.say("progress", step=step))
    except Terminated:
        return EXIT_SIGTERM
    except BaseException as error:  # noqa: BLE001 - whatever it was, the worker decides what follows
        failure = describe(error, task.out)
        if failure["code"] == "internal":
            traceback.print_exc()
        parent.say("failed", **failure)
        return 1
    parent.say("done")
    return 0


def explain_task(task: ChildTask, gate: Gate, report: Report) -> None:
    """Explain for real."""
    from services.xai_worker.explain import Attempt, Machine, explain_manifest  # noqa: PLC0415 - torch, seconds
    from services.xai_worker.request import ExplainRequest  # noqa: PLC0415
    from shared import env  # noqa: PLC0415
    from shared.progress import set_quiet  # noqa: PLC0415

    set_quiet(True)
    tracing.configure("gowhy-xai-child")
    manifest = confined(Path(task.out), task.manifest, task.manifest_sha256)
    request = ExplainRequest.model_validate(task.request)
    env_lock, _ = env.enforce(env.chosen_policy(task.env_policy))
    machine = Machine(env_lock, task.device, task.threads, quiet=True, batch_halvings=task.batch_halvings)
    try:
        with tracing.span("explain", task.traceparent, job_id=task.job_id):
            explain_manifest(manifest, request, machine, job_id=task.job_id, attempt=Attempt(gate, report))
    finally:
        tracing.flush()


def confined(out: Path, relative: str, sha256: str | None) -> Path:
    """The manifest, inside the volume and the one that was submitted.

    Raises:
        NotPermitted: it lies outside.
        MissingInput: it is not there.
        IntegrityError: it is another file by now.
    """
    from shared.digests import sha256_file  # noqa: PLC0415
    from shared.errors import IntegrityError, MissingInput, NotPermitted  # noqa: PLC0415

    path = (out / relative).resolve()
    if not path.is_relative_to(out.resolve()):
        raise NotPermitted(f"{relative} lies outside of the volume", remedy="Name a manifest under out/")
    if not path.is_file():
        raise MissingInput(
            f"this worker cannot see {relative}", remedy="Mount the volume of train as the worker's GOWHY_XAI_OUT"
        )
    if sha256 is not None and sha256_file(path) != sha256:
        raise IntegrityError(f"{relative} has changed since the job was submitted", remedy="Submit it again")
    return path


def describe(error: BaseException, out: str) -> dict[str, Any]:
    """What the worker needs to know of a failure; the message is for users and names no path outside the volume."""
    if isinstance(error, MemoryError) or _says(error, "out of memory", "OutOfMemoryError", "can't allocate memory"):
        return _failure("out_of_memory", "the job ran out of memory", retryable=True, out_of_memory=True)
    if _says(error, "CUDA error", "AcceleratorError"):
        return _failure("device_error", "the compute device failed", retryable=True)
    if isinstance(error, OSError):
        error = from_os_error(error, str(error.filename or "file system"))
    if isinstance(error, GowhyError):
        root = str(Path(out).resolve())
        said = error.what if error.remedy is None else f"{error.what}. {error.remedy}"
        message = said.replace(f"{root}/", "").replace(f"{out}/", "").replace(root, "the volume")
        return _failure(error.code, message, retryable=error.retryable or isinstance(error, CannotWrite))
    return _failure("internal", "an internal error; the worker's log has the details under this job's id")


def _failure(code: str, message: str, *, retryable: bool = False, out_of_memory: bool = False) -> dict[str, Any]:
    return {"code": code, "message": message, "retryable": retryable, "out_of_memory": out_of_memory}


def _says(error: BaseException, *texts: str) -> bool:
    said = f"{type(error).__name__}: {error}"
    return isinstance(error, RuntimeError) and any(text in said for text in texts)


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _end_group() -> NoReturn:
    """End this process and what it started; it leads its own group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_PARENT_DIED)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
