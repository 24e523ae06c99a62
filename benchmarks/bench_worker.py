"""`make bench-worker`: a stampede on the worker's HTTP service, over each database, against the promised bounds.

    32 clients submit against a bound of 100: exactly 100 are accepted, every other gets 429 with Retry-After;
    a refusal's p99 is at most half of an acceptance's; meanwhile the p99 of GET stays within 3x of idle;
    memory is flat over 10,000 requests.

The HTTP process is the one that `serve` starts, on loopback, without a worker, so that accepted jobs go on waiting.
The clients and the GET probe are processes of their own. The last line is `PASS n/m`, or `FAIL n/m: names` with exit 1.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import psutil

from services.xai_worker.http.tokens import new_token
from tests.fakes.postgres_server import PostgresServer, missing
from tests.fakes.published_run import PublishedRun

REPOSITORY = Path(__file__).resolve().parents[1]
CLIENTS, BOUND, SUBMISSIONS, REQUESTS = 32, 100, 6_000, 10_000
PROBE_EVERY_S, IDLE_S = 0.005, 4.0
REFUSAL_SHARE, GET_FACTOR, GROWTH_MIB = 0.5, 3.0, 8.0
MIB = 1 << 20


@dataclass
class Gates:
    """What held, and what did not."""

    results: dict[str, bool] = field(default_factory=dict)

    def check(self, name: str, held: bool, figures: str) -> None:
        """Print one gate."""
        self.results[name] = held
        print(f"{'ok  ' if held else 'MISS'} {name}: {figures}", flush=True)

    def verdict(self) -> int:
        """Print the last line; the exit code."""
        missed = [name for name, held in self.results.items() if not held]
        total = len(self.results)
        print(f"FAIL {total - len(missed)}/{total}: {', '.join(missed)}" if missed else f"PASS {total}/{total}")
        return 1 if missed else 0


@dataclass(frozen=True)
class Service:
    """A running HTTP process."""

    process: psutil.Process
    port: int
    token: str

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One request as bytes."""
        head = [
            f"{method} {path} HTTP/1.1",
            "Host: localhost",
            f"Authorization: Bearer {self.token}",
            f"Content-Length: {len(body)}",
        ]
        if body:
            head.append("Content-Type: application/json")
        return "\r\n".join([*head, "", ""]).encode() + body


@contextmanager
def serving(folder: Path, run: PublishedRun, database_url: str) -> Iterator[Service]:
    """The HTTP process over one database; it is stopped by its process id."""
    token, made = new_token("bench", ("submit", "read", "cancel"), None)
    (folder / "tokens").write_text(made.line() + "\n", encoding="utf-8")
    environment = {
        **os.environ,
        "GOWHY_XAI_TOKENS_FILE": str(folder / "tokens"),
        "GOWHY_XAI_QUEUE_BOUND": str(BOUND),
        "GOWHY_XAI_OWNER_BOUND": "100000",
        "GOWHY_XAI_OUT": str(run.out),
        "GOWHY_XAI_DATABASE_URL": database_url,
    }
    with tempfile.TemporaryFile() as log:
        port = _free_port()
        command = [sys.executable, "-m", "services.xai_worker", "serve", "--role", "api", "--port", str(port)]
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=log, stdin=subprocess.DEVNULL)
        try:
            service = Service(psutil.Process(process.pid), port, token)
            _wait(service, process)
            yield service
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _wait(service: Service, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if _status(service, "/v1/health/live") == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the service did not start")


def _status(service: Service, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {service.token}"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


Answer = tuple[int, float, bool]  # status, seconds, whether it says when to come back


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> Answer:
    began = time.perf_counter()
    writer.write(data)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head[9:12]), time.perf_counter() - began, b"\r\nretry-after:" in head


async def _stampede(port: int, requests: list[bytes], clients: int) -> list[Answer]:
    """Clients that share a list of requests, each sending its next one as soon as it has an answer."""
    left = iter(requests)

    async def client() -> list[Answer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = [await _ask(reader, writer, data) for data in left]
        writer.close()
        return answers

    return [answer for answers in await asyncio.gather(*(client() for _ in range(clients))) for answer in answers]


def _clients(port: int, requests: list[bytes], clients: int, results: Any) -> None:
    results.put(asyncio.run(_stampede(port, requests, clients)))


def _probe(port: int, data: bytes, begun: Event, stop: Event, results: Any) -> None:
    async def run() -> list[Answer]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = []
        begun.set()
        while not stop.is_set():
            answers.append(await _ask(reader, writer, data))
            await asyncio.sleep(PROBE_EVERY_S)
        writer.close()
        return answers

    results.put(asyncio.run(run()))


def apart(work: Callable[..., None], *arguments: Any) -> tuple[multiprocessing.Process, Any]:
    """Run in a process of its own; its answers come by the queue."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    process = context.Process(target=work, args=(*arguments, results))
    process.start()
    return process, results  # type: ignore[return-value]


def stampede(service: Service, requests: list[bytes]) -> list[Answer]:
    """All answers to the requests of 32 clients."""
    process, results = apart(_clients, service.port, requests, CLIENTS)
    answers: list[Answer] = results.get(timeout=600)
    process.join()
    return answers


@contextmanager
def probing(service: Service, path: str, into: list[Answer]) -> Iterator[None]:
    """Ask one address all the time, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    begun, stop = context.Event(), context.Event()
    process, results = apart(_probe, service.port, service.request("GET", path), begun, stop)
    begun.wait(60)
    yield
    stop.set()
    into.extend(results.get(timeout=60))
    process.join()


def p99(answers: list[Answer]) -> float:
    """The 99th percentile, in ms."""
    return 1000 * statistics.quantiles([seconds for _, seconds, _ in answers], n=100, method="inclusive")[98]


def rss_mib(service: Service) -> float:
    """Resident memory."""
    return float(service.process.memory_info().rss) / MIB


def bench(kind: str, service: Service, run: PublishedRun, gates: Gates) -> None:
    """All gates over one database."""
    body = json.dumps({"run_id": run.run_id}).encode()
    warm = asyncio.run(_stampede(service.port, [service.request("POST", "/v1/explanations", body)], 1))
    job = json.loads(_get(service, "/v1/explanations"))["jobs"][0]["links"]
    asyncio.run(_stampede(service.port, [service.request("POST", job["cancel"])], 1))
    asyncio.run(_stampede(service.port, [service.request("GET", job["self"])] * 300, 1))
    assert warm[0][0] == 202, warm

    idle: list[
        Answer
    ] = []  # before and after, so that a machine that slows down does not look like a service that does
    with probing(service, job["self"], idle):
        time.sleep(IDLE_S)
    meanwhile: list[Answer] = []
    with probing(service, job["self"], meanwhile):
        answers = stampede(service, [service.request("POST", "/v1/explanations", body)] * SUBMISSIONS)
    with probing(service, job["self"], idle):
        time.sleep(IDLE_S)
    accepted = [answer for answer in answers if answer[0] == 202]
    refused = [answer for answer in answers if answer[0] == 429]
    codes = dict(Counter(status for status, _, _ in answers))
    waiting = json.loads(_get(service, "/v1/info"))["queue"]["waiting"]
    gates.check(f"{kind} accepted", len(accepted) == BOUND == waiting, f"{len(accepted)} of {BOUND}; {waiting} wait")
    told = sum(answer[2] for answer in refused)
    everything = len(accepted) + len(refused) == len(answers) == SUBMISSIONS
    gates.check(f"{kind} refused", everything and told == len(refused), f"{codes}, {told} with Retry-After")
    ratio = p99(refused) / p99(accepted)
    figures = f"p99 {p99(refused):.1f} ms of {p99(accepted):.1f} ms: {ratio:.2f} (at most {REFUSAL_SHARE})"
    gates.check(f"{kind} refusal", ratio <= REFUSAL_SHARE, figures)
    slower = p99(meanwhile) / p99(idle)
    figures = f"p99 {p99(meanwhile):.1f} ms, idle {p99(idle):.1f} ms: {slower:.2f}x over {len(meanwhile)} requests"
    gates.check(f"{kind} get", slower <= GET_FACTOR, f"{figures} (at most {GET_FACTOR}x)")

    mixed = [
        service.request("POST", "/v1/explanations", body),
        service.request("GET", job["self"]),
        service.request("GET", "/v1/explanations?page_size=5"),
        service.request("GET", "/nowhere"),
    ] * (REQUESTS // 4)
    stampede(service, mixed[: REQUESTS // 4])  # every pool and cache is filled
    before = rss_mib(service)
    stampede(service, mixed)
    growth = rss_mib(service) - before
    figures = f"{growth:+.1f} MiB over {len(mixed)} requests, at {before:.0f} MiB (at most {GROWTH_MIB})"
    gates.check(f"{kind} memory", growth <= GROWTH_MIB, figures)


def _get(service: Service, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {service.token}"})
    return connection.getresponse().read()


def main() -> int:
    """Run over the databases that are here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=("sqlite", "postgres"), action="append", help="default: both")
    kinds = parser.parse_args().database or ["sqlite", "postgres"]
    gates = Gates()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; another program's load widens every tail")
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="gowhy-bench-") as name:
            folder = Path(name)
            run = PublishedRun(folder / "out")
            if kind == "sqlite":
                with serving(folder, run, f"sqlite:///{folder / 'queue.sqlite3'}") as service:
                    bench(kind, service, run, gates)
            elif (why := missing()) is not None:
                gates.check("postgres", False, why)
            else:
                server = PostgresServer()
                try:
                    with serving(folder, run, server.create("bench")) as service:
                        bench(kind, service, run, gates)
                finally:
                    server.remove()
    return gates.verdict()


if __name__ == "__main__":
    raise SystemExit(main())
