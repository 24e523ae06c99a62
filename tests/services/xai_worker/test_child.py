"""The child's side of the two pipes, and what it tells of a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.xai_worker.child import ChildTask, confined, describe
from services.xai_worker.worker.process import ChildProcess
from shared.digests import sha256_file
from shared.errors import DataError, IntegrityError, MissingInput, NotPermitted, TryAgain

LIGHT = (sys.executable, "-m", "tests.fakes.light_child")
REPOSITORY = Path(__file__).resolve().parents[3]


def task(out: Path, **request: object) -> ChildTask:
    return ChildTask(
        job_id="j", attempt=1, out=str(out), manifest="run/manifest.json", manifest_sha256=None,
        request={"seconds": 0.05, **request}, device="cpu", threads=1, env_policy=None, batch_halvings=0,
        traceparent=None,
    )  # fmt: skip


def hear(child: ChildProcess, kind: str, timeout_s: float = 20) -> dict[str, object]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for message in child.messages(0.1):
            if message["kind"] == kind:
                return message
        if child.ended and (last := [m for m in child.last_messages() if m["kind"] == kind]):
            return last[0]
    raise AssertionError(f"no {kind}")


def test_it_publishes_only_with_leave(tmp_path: Path) -> None:
    final = tmp_path / "run" / "xai" / "j"
    for answer in (False, True):
        child = ChildProcess(task(tmp_path), LIGHT)
        hear(child, "ready")
        time.sleep(0.2)
        assert not final.exists()
        child.answer(answer)
        said = hear(child, "done" if answer else "failed")
        assert answer or said["code"] == "may_not_publish"
        child.stop(5)
        child.close()
        assert final.exists() == answer


def test_it_dies_with_its_parent_and_takes_its_own_children_along(tmp_path: Path) -> None:
    program = (
        "import sys, subprocess, time\n"
        "from services.xai_worker.child import main\n"
        "def explain(task, gate, report):\n"
        "    grandchild = subprocess.Popen(['sleep', '60'])\n"
        "    report({'pid': grandchild.pid})\n"
        "    time.sleep(60)\n"
        "raise SystemExit(main(sys.argv[1:], explain))\n"
    )
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(writing)], stdin=subprocess.PIPE, pass_fds=(writing,), cwd=REPOSITORY,
        start_new_session=True,
    )  # fmt: skip
    os.close(writing)
    assert process.stdin is not None
    process.stdin.write(task(tmp_path).line())
    process.stdin.flush()
    grandchild = json.loads(os.read(reading, 4096))["step"]["pid"]
    process.stdin.close()
    assert process.wait(10) in {-signal.SIGKILL, 137}
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and Path(f"/proc/{grandchild}/stat").exists():
        if Path(f"/proc/{grandchild}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.02)
    else:
        assert not Path(f"/proc/{grandchild}").exists()
    os.close(reading)


def test_sigterm_ends_it_and_leaves_no_staging_folder(tmp_path: Path) -> None:
    child = ChildProcess(task(tmp_path, seconds=30), LIGHT)
    hear(child, "progress")
    child.stop(10)
    child.close()
    assert child.killed_by is None
    assert list((tmp_path / "run" / "xai").iterdir()) == []


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = ChildProcess(task(tmp_path, seconds=30), LIGHT)
    hear(child, "progress")
    os.kill(child.pid, signal.SIGSTOP)
    began = time.monotonic()
    child.stop(0.3)
    child.close()
    assert time.monotonic() - began < 5
    assert child.killed_by == signal.SIGKILL
    assert not child.ran_out_of_memory


class AcceleratorError(RuntimeError):
    """What torch raises when a device fails."""


@pytest.mark.parametrize(
    ("error", "code", "retryable", "memory"),
    [
        (MemoryError(), "out_of_memory", True, True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory", True, True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory", True, True),
        (AcceleratorError("CUDA error: an illegal memory access"), "device_error", True, False),
        (OSError(28, "No space left on device"), "cannot_write", True, False),
        (TryAgain("busy"), "try_again", True, False),
        (DataError("line 3 is wrong"), "bad_data", False, False),
        (IntegrityError("wrong hash"), "integrity", False, False),
        (MissingInput("no protein 'X'"), "missing_input", False, False),
        (ValueError("secret detail"), "internal", False, False),
        (KeyError("secret detail"), "internal", False, False),
    ],
)
def test_what_is_said_of_a_failure(error: Exception, code: str, retryable: bool, memory: bool) -> None:
    said = describe(error, "/volume")
    assert (said["code"], said["retryable"], said["out_of_memory"]) == (code, retryable, memory)
    assert "secret" not in said["message"]


def test_a_message_names_no_path_of_the_server(tmp_path: Path) -> None:
    root = str(tmp_path.resolve())
    said = describe(DataError(f"{root}/run/x is wrong", where=f"{root}/run", remedy=f"Look into {root}"), root)
    assert root not in said["message"]
    assert said["message"] == "run/x is wrong. Look into the volume"


def test_a_manifest_is_confined_to_the_volume_and_the_one_that_was_submitted(tmp_path: Path) -> None:
    out, secret = tmp_path / "out", tmp_path / "manifest.json"
    (out / "run").mkdir(parents=True)
    secret.write_text("{}")
    (out / "run" / "manifest.json").write_text("{}")
    digest = sha256_file(secret)
    assert confined(out, "run/manifest.json", digest) == (out / "run" / "manifest.json").resolve()
    (out / "linked").symlink_to(tmp_path)
    for path in ("../manifest.json", str(secret), "linked/manifest.json", "/etc/passwd"):
        with pytest.raises(NotPermitted):
            confined(out, path, None)
    with pytest.raises(MissingInput, match=r"cannot see other/manifest\.json"):
        confined(out, "other/manifest.json", None)
    with pytest.raises(IntegrityError, match="has changed"):
        confined(out, "run/manifest.json", "0" * 64)
