"""The service as processes that a test may kill: by role, by the process tree, never by name."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from services.xai_worker.queue.opening import open_queue
from services.xai_worker.queue.sql_queue import SqlQueue
from services.xai_worker.settings import WorkerSettings

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-chaos-tests"


class Running:
    """`tests.chaos.light_service` over one folder and one database.

    Args:
        folder: for the log, the audit, the volume.
        database_url: of the queue.
        settings: further GOWHY_* variables.
    """

    def __init__(self, folder: Path, database_url: str, **settings: str) -> None:
        self.folder, self.out, self.audit = folder, folder / "out", folder / "audit.jsonl"
        self.out.mkdir(exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("GOWHY_")
        } | {
            "GOWHY_XAI_OUT": str(self.out),
            "GOWHY_XAI_DATABASE_URL": database_url,
            "GOWHY_XAI_TOKEN": TOKEN,
            "GOWHY_XAI_POLL_S": "0.1",
            "GOWHY_XAI_HEARTBEAT_S": "0.5",
            "GOWHY_XAI_LEASE_S": "5",
            "GOWHY_XAI_BACKOFF_BASE_S": "0.1",
            "GOWHY_XAI_BACKOFF_CAP_S": "1",
            "GOWHY_XAI_KILL_GRACE_S": "1",
            "GOWHY_XAI_CONCURRENCY": "2",
            "GOWHY_LIGHT_AUDIT": str(self.audit),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
        } | settings  # fmt: skip
        self.processes: list[subprocess.Popen[bytes]] = []

    def settings(self) -> WorkerSettings:
        """What the processes have."""
        return WorkerSettings.from_environment(self.environment)

    def queue(self) -> SqlQueue:
        """The queue, opened by this process."""
        return open_queue(self.settings())

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a role, or the whole service; in a session of its own."""
        log = (self.folder / "log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.light_service", "--port", str(self.port), *arguments],
            cwd=REPOSITORY, env=self.environment | environment, stdin=subprocess.PIPE, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        log.close()
        self.processes.append(process)
        return process

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Until HTTP says that it is ready."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/v1/health/ready", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError("the service did not become ready:\n" + self.log_tail())

    def log_tail(self) -> str:
        """The end of the common log."""
        return (self.folder / "log").read_text(errors="replace")[-4000:]

    def pids(self, role: str) -> list[int]:
        """Processes of one role below what was started: supervisor, api, worker or child."""
        found = []
        for process in self.processes:
            try:
                tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for one in tree:
                try:
                    if role_of(one.cmdline()) == role and one.status() != psutil.STATUS_ZOMBIE:
                        found.append(one.pid)
                except psutil.NoSuchProcess:
                    continue
        return found

    def kill(self, role: str, generator: random.Random | None = None) -> int | None:
        """SIGKILL one process of a role; None if there is none now."""
        pids = self.pids(role)
        if not pids:
            return None
        pid = (generator or random).choice(pids)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        return pid

    def stacks(self) -> str:
        """What every thread of the workers is doing, which ends them; for a failure's message."""
        start = (self.folder / "log").stat().st_size
        for pid in self.pids("worker"):
            os.kill(pid, signal.SIGABRT)
        time.sleep(1)
        return (self.folder / "log").read_bytes()[start:].decode(errors="replace")

    def stop(self, timeout_s: float = 60) -> list[int]:
        """SIGTERM to what was started; the exit codes."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        codes = [process.wait(timeout_s) for process in self.processes]
        self._close()
        return codes

    def destroy(self) -> None:
        """SIGKILL to everything that was started and what it started."""
        for role in ("supervisor", "api", "worker", "child"):
            for pid in self.pids(role):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        for process in self.processes:
            process.kill()
            process.wait()
        self._close()

    def _close(self) -> None:
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
        self.processes.clear()


def role_of(command: list[str]) -> str | None:
    """From a command line of ours."""
    if "tests.fakes.light_child" in command or "services.xai_worker.child" in command:
        return "child"
    if "tests.chaos.light_service" not in command:
        return None
    if "--role" not in command:
        return "supervisor"
    return command[command.index("--role") + 1]
