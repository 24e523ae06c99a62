"""A service for one command: started on a free loopback port, with a token and a database of its own, and stopped after."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from shared.errors import ServiceUnavailable

START_S, STOP_S = 120.0, 90.0
LISTENING = "listening on "
TAIL = 2_000  # characters of its log that a failure shows


@contextmanager
def own_service(out: Path) -> Iterator[tuple[str, str]]:
    """Yield (address, token) of a service over a volume; it is stopped by its process id.

    Raises:
        ServiceUnavailable: it did not start; its log's end is in the message.
    """
    token = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="gowhy-xai-") as name, (Path(name) / "log").open("wb") as log:
        command = [sys.executable, "-m", "services.xai_worker", "serve", "--out", str(out), "--port", "0"]
        command += ["--database-url", f"sqlite:///{name}/queue.sqlite3"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("GOWHY_XAI_")}
        process = subprocess.Popen(
            command, env={**environment, "GOWHY_XAI_TOKEN": token}, stdin=subprocess.DEVNULL, stderr=log, stdout=log
        )
        try:
            yield _ready(process, Path(log.name)), token
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.startswith(LISTENING)]
        if said:
            address = said[0].removeprefix(LISTENING).strip()
            if _is_ready(address):
                return address
        time.sleep(0.1)
    end = log.read_text(errors="replace")[-TAIL:].strip()
    raise ServiceUnavailable(f"the service did not start: {end or 'it said nothing'}", remedy="See docs/worker.md")


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v1/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False
