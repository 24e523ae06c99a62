"""SIGKILL of HTTP, workers, children and the supervisor at random moments, while clients submit and cancel."""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from pathlib import Path

import httpx
import pytest

from tests.chaos.conftest import count
from tests.chaos.history import History, settle
from tests.chaos.running import TOKEN, Running
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.published_run import RUN_ID, PublishedRun

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]
KILLS = max(2, int(os.environ.get("GOWHY_WORKER_KILLS", "20")) // 2)  # on each database
SEED = int(os.environ.get("GOWHY_CHAOS_SEED", "1"))
BOUND, CLIENTS = 12, 3
# A job that is hit often must still end: how many kills it survives is another test's business.
SETTINGS = {"GOWHY_XAI_MAX_ATTEMPTS": "1000", "GOWHY_XAI_QUEUE_BOUND": str(BOUND), "GOWHY_LIGHT_SECONDS": "0.6"}
RESTART_EVERY = 30  # kills between two crashes of Postgres


class Client(threading.Thread):
    """Submits with a key of its own, again and again until it has an answer; cancels some."""

    def __init__(self, service: Running, history: History, seed: int) -> None:
        super().__init__(daemon=True)
        self.service, self.history, self.generator = service, history, random.Random(seed)
        self.stopping = threading.Event()
        self.seed = seed

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            body = {"run_id": RUN_ID, "proteins": ["T1"], "seed": self.seed * 100_000 + number}
            job_id = self.submit(body, key=uuid.uuid4().hex)
            if job_id is not None and self.generator.random() < 0.15:
                time.sleep(self.generator.uniform(0, 1.0))
                self.cancel(job_id)
            time.sleep(self.generator.uniform(0, 0.4))

    def submit(self, body: dict[str, object], key: str) -> str | None:
        """Until the service has answered with a job, and then perhaps once more."""
        again = self.generator.random() < 0.2
        while True:
            answer = self.call("POST", "/v1/explanations", json=body, headers={"Idempotency-Key": key})
            if answer is not None and answer.status_code in {200, 202}:
                self.history.answer(key, answer.json()["id"])
                if not again:
                    return str(answer.json()["id"])
                again = False
            elif answer is not None and answer.status_code not in {429, 503}:
                self.history.broken.append(f"POST gave {answer.status_code}: {answer.text}")
                return None
            if self.stopping.is_set() and answer is not None:
                return None
            time.sleep(0.1)

    def cancel(self, job_id: str) -> None:
        answer = self.call("POST", f"/v1/explanations/{job_id}/cancel")
        if answer is not None and answer.status_code == 202:
            with self.history.lock:
                self.history.cancels.add(job_id)

    def call(self, method: str, path: str, headers: dict[str, str] | None = None, **rest) -> httpx.Response | None:
        headers = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
        try:
            return httpx.request(method, self.service.url + path, headers=headers, timeout=40, **rest)
        except httpx.HTTPError as error:
            self.history.unknown(type(error).__name__)
            return None


def test_random_kills_lose_and_repeat_nothing(kind: str, database_url: str, tmp_path: Path, request) -> None:
    generator = random.Random(SEED)
    service = Running(tmp_path, database_url, **SETTINGS)
    PublishedRun(service.out)
    workers = ["--workers", "2"] if kind == "postgres" else []
    service.start(*workers)
    history = History(BOUND)
    kills: dict[str, int] = dict.fromkeys(("api", "worker", "child", "supervisor", "postgres"), 0)
    try:
        service.wait_ready()
        queue = service.queue()
        clients = [Client(service, history, SEED * 10 + number) for number in range(CLIENTS)]
        watching = threading.Event()
        watcher = threading.Thread(target=watch, args=(history, queue, service.out, watching), daemon=True)
        for thread in (*clients, watcher):
            thread.start()
        while (done := sum(kills.values())) < KILLS:
            time.sleep(generator.uniform(0.1, 1.0))
            if (
                kind == "postgres"
                and done % RESTART_EVERY == RESTART_EVERY // 2
                and kills["postgres"] <= done // RESTART_EVERY
            ):
                server: PostgresServer = request.getfixturevalue("postgres_server")
                server.stop("immediate")
                time.sleep(generator.uniform(0, 1))
                server.start()
                kills["postgres"] += 1
                continue
            role = generator.choices(("child", "worker", "api", "supervisor"), (6, 5, 1.5, 0.5))[0]
            if generator.random() < 0.8:
                wait_for_work(service)
            if role == "supervisor":
                kills[role] += int(service.kill(role, generator) is not None)
                service.processes[-1].wait()
                service.start(*workers)
            else:
                kills[role] += int(service.kill(role, generator) is not None)
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join(120)
            assert not client.is_alive(), "a client still waits for an answer"
        settle(history, queue, service.out, timeout_s=180)
        watching.set()
        watcher.join()
        verdict = history.check(queue, service.out, service.audit)
        queue.close()
        codes = service.stop()
    except BaseException:
        print(service.log_tail())
        raise
    finally:
        service.destroy()
    count(kind, kills=sum(kills.values()), acknowledged=verdict.acknowledged, lost=len(verdict.lost),
          published_twice=len(verdict.twice))  # fmt: skip
    print(
        f"{kind}: kills {kills}, acknowledged {verdict.acknowledged}, run again {verdict.run_again}, states "
        f"{dict(verdict.states)}, most waiting {history.most_waiting} of {BOUND}, looks {history.looks}, "
        f"calls without an answer {dict(history.outcomes)}"
    )
    verdict.hold()
    assert codes[-1] == 0
    assert verdict.acknowledged >= KILLS / 4, "too little happened for the kills to mean anything"


def wait_for_work(service: Running) -> None:
    """Until a job runs, or a while: a kill of an idle process proves little."""
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline and not service.pids("child"):
        time.sleep(0.05)


def watch(history: History, queue, out: Path, stop: threading.Event) -> None:
    while not stop.wait(0.3):
        history.look(queue, out)
