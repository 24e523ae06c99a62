"""Over real sockets: the documented command, clients that are slow, too large, too many or not HTTP at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from services.xai_worker.http.server import listen
from services.xai_worker.http_settings import HttpSettings
from shared.errors import ServiceUnavailable
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.fakes.served import served
from tests.services.xai_worker.http.conftest import Keys

URL = "/v1/explanations"
LIMITS = {
    "header_timeout_s": 0.5,
    "body_timeout_s": 0.5,
    "send_timeout_s": 0.5,
    "max_body_bytes": 50_000,
    "max_connections": 8,
    "stream_poll_s": 0.01,
}


@pytest.fixture
def base(queue: MemoryQueue, run: PublishedRun, keys: Keys) -> Iterator[str]:
    with served(queue, HttpSettings.model_validate({"out": run.out, **LIMITS}), keys.known) as address:
        yield address


def connect(base: str) -> socket.socket:
    found = urlsplit(base)
    return socket.create_connection((found.hostname, found.port), timeout=10)


def all_of(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    data = b""
    while block := connection.recv(65536):
        data += block
    return data


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_documented_curl_command_works(base: str, queue: MemoryQueue, run: PublishedRun, keys: Keys) -> None:
    manifest = f"@{run.path}"
    token = f"Authorization: Bearer {keys.plain['lab']}"
    command = ["curl", "-sS", "-i", "-H", token, "--data", manifest, f"{base}{URL}"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    head, _, body = done.stdout.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 202"), done.stdout
    job = queue.get(json.loads(body)["id"])
    assert f"location: {URL}/{job.id}" in head.lower()
    assert job.run_id == run.run_id


def test_a_large_body_is_refused_unread(base: str, keys: Keys, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with connect(base) as connection:
        head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {1 << 40}\r\n\r\n"
        connection.sendall(head.encode())
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"urn:gowhy:problem:too-large" in answer

    def endless() -> Iterator[bytes]:
        while True:
            yield b"[" * 8192

    headers = keys.headers(**{"Content-Type": "application/json"})
    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # cut while the client still sends
        assert httpx.post(base + URL, content=endless(), headers=headers, timeout=10).status_code == 413
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\nGET / H",
    ],
)
def test_headers_that_do_not_come_end_the_connection(base: str, start: bytes) -> None:
    with connect(base) as connection:
        connection.sendall(start)
        began = time.monotonic()
        connection.settimeout(0.1)
        answer = b""
        while time.monotonic() - began < 8:
            try:
                block = connection.recv(65536)
            except TimeoutError:
                connection.sendall(b"a")  # a byte now and then keeps an idle limit from firing
                continue
            except OSError:
                break
            if not block:
                break
            answer += block
        assert time.monotonic() - began < 6
    assert b"408" in answer or b"400" in answer


def test_a_body_that_does_not_come_is_408(base: str, queue: MemoryQueue, keys: Keys) -> None:
    with connect(base) as connection:
        token = keys.plain["lab"]
        head = f"POST {URL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"urn:gowhy:problem:timeout" in answer
    assert not queue.jobs


def test_a_client_that_does_not_read_is_cut_off(base: str, queue: MemoryQueue, run: PublishedRun, keys: Keys) -> None:
    job_id = httpx.post(base + URL, json={"run_id": run.run_id}, headers=keys.headers()).json()["id"]
    queue.begin(job_id)
    for _ in range(3000):
        queue.report(job_id, {"text": "x" * 8000})
    with connect(base) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        token = keys.plain["lab"]
        connection.sendall(
            f"GET {URL}/{job_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        deadline = time.monotonic() + 15
        metrics = ""
        while time.monotonic() < deadline:
            metrics = httpx.get(base + "/metrics", headers=keys.headers()).text
            if "gowhy_http_event_streams 0.0" in metrics and "/events" in metrics:
                break
            time.sleep(0.1)
        assert "gowhy_http_event_streams 0.0" in metrics


def test_too_many_connections_are_503(base: str) -> None:
    held = [connect(base) for _ in range(8)]
    try:
        time.sleep(0.1)
        with connect(base) as connection:
            connection.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = all_of(connection)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"retry-after" in answer
    finally:
        for connection in held:
            connection.close()
    time.sleep(0.2)
    assert httpx.get(base + "/v1/health/live").status_code == 200


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 5, b"NOT HTTP\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
     b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"],
)  # fmt: skip
def test_what_is_not_http_is_400(base: str, data: bytes) -> None:
    with connect(base) as connection:
        connection.sendall(data)
        answer = all_of(connection)
    assert answer.startswith(b"HTTP/1.1 4")
    assert b"application/problem+json" in answer
    assert httpx.get(base + "/v1/health/live").status_code == 200


def test_headers_without_end_are_cut_off(base: str) -> None:
    endless = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000_000
    with connect(base) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(endless)
    assert httpx.get(base + "/v1/health/live").status_code == 200


def test_a_taken_port_is_said() -> None:
    with listen(HttpSettings(port=0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(ServiceUnavailable, match=str(port)):
            listen(HttpSettings(port=port))
