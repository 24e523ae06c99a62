"""The HTTP service over the real queue, on SQLite and on Postgres: what the fake cannot show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.queue.opening import open_queue
from services.xai_worker.queue.sql_queue import SqlQueue
from services.xai_worker.settings import WorkerSettings
from tests.fakes.published_run import PublishedRun
from tests.fakes.served import served
from tests.services.xai_worker.http.conftest import CHIEF, OTHER, Keys

URL = "/v1/explanations"
BOUND, CLIENTS = 12, 8


@pytest.fixture
def real(database_url: str, run: PublishedRun) -> Iterator[SqlQueue]:
    queue = open_queue(WorkerSettings(out=run.out, database_url=database_url, queue_bound=BOUND, owner_bound=50))
    yield queue
    queue.close()


@pytest.fixture
def base(real: SqlQueue, run: PublishedRun, keys: Keys) -> Iterator[str]:
    with served(real, HttpSettings(out=run.out, stream_poll_s=0.05, stream_s=0.2), keys.known) as address:
        yield address


def test_exactly_the_bound_is_accepted_from_many_clients(base: str, run: PublishedRun, keys: Keys) -> None:
    def submit(_: int) -> httpx.Response:
        return httpx.post(base + URL, json={"run_id": run.run_id}, headers=keys.headers(), timeout=60)

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(submit, range(4 * BOUND)))
    assert Counter(answer.status_code for answer in answers) == {202: BOUND, 429: 3 * BOUND}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == BOUND


def test_one_key_from_many_clients_is_one_job(base: str, run: PublishedRun, keys: Keys) -> None:
    headers = keys.headers(**{"Idempotency-Key": "same"})

    def submit(_: int) -> httpx.Response:
        return httpx.post(
            base + URL,
            content=run.path.read_bytes(),
            headers={**headers, "Content-Type": "application/json"},
            timeout=60,
        )

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(submit, range(2 * CLIENTS)))
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert Counter(answer.status_code for answer in answers) == {202: 1, 200: 2 * CLIENTS - 1}
    other = httpx.post(base + URL, json={"run_id": run.run_id}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "urn:gowhy:problem:key-reused")


def test_a_job_from_its_submission_to_its_second_round(base: str, run: PublishedRun, keys: Keys) -> None:
    with httpx.Client(base_url=base, headers=keys.headers(), timeout=60) as http:
        job = http.post(URL, json={"run_id": run.run_id, "proteins": ["T1"], "seed": 3}).json()
        assert http.get(job["links"]["self"]).json() == job
        assert http.get(URL).json()["jobs"] == [job]
        assert httpx.get(base + job["links"]["self"], headers=keys.headers(OTHER)).status_code == 404
        assert httpx.get(base + job["links"]["self"], headers=keys.headers(CHIEF)).status_code == 200
        assert http.post(job["links"]["retry"]).status_code == 409
        assert http.get(job["links"]["result"]).status_code == 409
        assert "event: queued" in http.get(job["links"]["events"]).text
        ended = http.post(job["links"]["cancel"]).json()
        assert ended["state"] == "cancelled"
        assert "event: cancelled" in http.get(job["links"]["events"]).text
        again = http.post(job["links"]["retry"]).json()
        assert (again["id"], again["state"], again["round"]) == (job["id"], "queued", 2)
        assert 'gowhy_jobs{state="queued"} 1.0' in http.get("/metrics").text
        assert http.get("/v1/health/ready").json()["checks"]["database"] == "ok"


def test_pages_hold_every_job_once(base: str, run: PublishedRun, keys: Keys) -> None:
    with httpx.Client(base_url=base, headers=keys.headers(), timeout=60) as http:
        made = [http.post(URL, json={"run_id": run.run_id}).json()["id"] for _ in range(5)]
        found, token = [], ""
        while token is not None:
            page = http.get(URL, params={"page_size": 2, **({"page_token": token} if token else {})}).json()
            found += [job["id"] for job in page["jobs"]]
            token = page["next_page_token"]
        assert found == made[::-1]
        for forged in ("x", "AAAA", "eyJh", "%00"):
            answer = http.get(f"{URL}?page_token={forged}")
            assert answer.status_code in (400, 422), answer.text
