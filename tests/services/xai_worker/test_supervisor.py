"""Restart, pulse, hopeless exits, and the order of stopping; with small processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from services.xai_worker.supervisor import Role, Supervisor

TELL = "import os, sys, time; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n')\n"
PULSE = (
    "import threading\n"
    "def beat():\n"
    "    while True: os.write(int(sys.argv[2]), b'.'); time.sleep(0.05)\n"
    "threading.Thread(target=beat, daemon=True).start()\n"
)


def role(folder: Path, name: str, body: str, **more) -> Role:
    command = [sys.executable, "-c", TELL + body, str(folder / name), "{pulse}"]
    return Role(name, [part.replace("{", "{{").replace("}", "}}") if part.startswith("import") else part for part in command],
                dict(os.environ), **more)  # fmt: skip


def pids(folder: Path, name: str) -> list[int]:
    file = folder / name
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def until(what, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def meanwhile(act) -> threading.Thread:
    """Act in a thread, then ask the supervisor in the main thread to stop."""

    def run() -> None:
        try:
            act()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_what_dies_is_started_again_until_a_signal_stops_all_with_zero(tmp_path: Path) -> None:
    supervisor = Supervisor([role(tmp_path, "worker", "time.sleep(60)")], [role(tmp_path, "api", "time.sleep(60)")], 10)

    def act() -> None:
        for died in range(1, 3):
            until(lambda: len(pids(tmp_path, "worker")) == died)  # noqa: B023
            os.kill(pids(tmp_path, "worker")[-1], signal.SIGKILL)
        until(lambda: len(pids(tmp_path, "worker")) == 3)

    thread = meanwhile(act)
    assert supervisor.run() == 0
    thread.join()
    assert len(pids(tmp_path, "api")) == 1
    for pid in pids(tmp_path, "worker") + pids(tmp_path, "api"):
        assert not Path(f"/proc/{pid}").exists()


def test_a_process_without_pulse_is_killed_and_replaced(tmp_path: Path) -> None:
    supervisor = Supervisor([role(tmp_path, "worker", PULSE + "time.sleep(60)", pulse_s=0.6)], [], 10)

    def act() -> None:
        until(lambda: len(pids(tmp_path, "worker")) == 1)
        time.sleep(1.2)  # it lives, so it stays
        assert len(pids(tmp_path, "worker")) == 1
        heard = supervisor.first[0].heard
        until(lambda: supervisor.first[0].heard != heard)
        os.kill(pids(tmp_path, "worker")[0], signal.SIGSTOP)
        until(lambda: len(pids(tmp_path, "worker")) == 2)

    thread = meanwhile(act)
    assert supervisor.run() == 0
    thread.join()
    assert len(pids(tmp_path, "worker")) == 2


def test_an_exit_that_no_restart_can_cure_ends_everything_with_its_code(tmp_path: Path) -> None:
    supervisor = Supervisor([role(tmp_path, "worker", "sys.exit(78)")], [role(tmp_path, "api", "time.sleep(60)")], 10)
    assert supervisor.run() == 78
    assert len(pids(tmp_path, "worker")) == 1


def test_http_is_released_only_when_the_workers_have_gone(tmp_path: Path) -> None:
    worker = (
        "import signal\n"
        "def stop(*_):\n"
        "    time.sleep(1); open(sys.argv[1] + '.ended', 'w').write(str(time.time())); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "open(sys.argv[1] + '.ready', 'w').close()\n"
        "time.sleep(60)\n"
    )
    api = (
        "import signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "open(sys.argv[1] + '.ready', 'w').close()\n"
        "while os.read(0, 1): pass\n"
        "open(sys.argv[1] + '.ended', 'w').write(str(time.time()))\n"
    )
    supervisor = Supervisor([role(tmp_path, "worker", worker)], [role(tmp_path, "api", api)], 10)
    thread = meanwhile(lambda: until(lambda: all((tmp_path / f"{n}.ready").exists() for n in ("worker", "api"))))
    assert supervisor.run() == 0
    thread.join()
    assert float((tmp_path / "api.ended").read_text()) > float((tmp_path / "worker.ended").read_text())
