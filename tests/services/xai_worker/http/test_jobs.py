"""Looking at jobs, ending them, trying them again; and what is answered to everything else."""

from __future__ import annotations

import logging

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from services.xai_worker.http.problem import BY_CODE, KINDS
from services.xai_worker.queue import base
from shared.errors import GowhyError
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.services.xai_worker.http.conftest import CHIEF, OTHER, Keys
from tests.services.xai_worker.http.test_submit import URL, refused


@pytest.fixture
def job_id(client: TestClient, run: PublishedRun) -> str:
    found: str = client.post(URL, json={"run_id": run.run_id}).json()["id"]
    return found


def test_the_etag_changes_with_the_job(client: TestClient, queue: MemoryQueue, job_id: str) -> None:
    first = client.get(f"{URL}/{job_id}")
    assert first.json()["state"] == "queued"
    unchanged = client.get(f"{URL}/{job_id}", headers={"If-None-Match": first.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    queue.begin(job_id)
    queue.report(job_id, {"done": 1, "total": 5, "protein": "T1", "model": "cnn", "method": "occlusion"})
    second = client.get(f"{URL}/{job_id}", headers={"If-None-Match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.json()["progress"] == {"done": 1, "total": 5, "protein": "T1", "model": "cnn", "method": "occlusion"}


def test_a_failure_is_told(client: TestClient, queue: MemoryQueue, job_id: str) -> None:
    queue.begin(job_id)
    queue.fail(job_id, "parity", "another model")
    said = client.get(f"{URL}/{job_id}").json()
    assert said["error"] == {"code": "parity", "message": "another model", "retryable": False}
    assert said["state"] == "failed"


def test_pages_hold_every_job_once(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    queue.bound = 20
    made = [client.post(URL, json={"run_id": run.run_id}).json()["id"] for _ in range(7)]
    queue.begin(made[2])
    found, token = [], None
    while True:
        page = client.get(URL, params={"page_size": 3, **({"page_token": token} if token else {})}).json()
        found += [job["id"] for job in page["jobs"]]
        token = page["next_page_token"]
        if token is None:
            break
    assert found == made[::-1]
    assert [job["id"] for job in client.get(URL, params={"state": "running"}).json()["jobs"]] == [made[2]]
    refused(client.get(URL, params={"page_token": "forged"}), 400, "malformed")
    refused(client.get(URL, params={"state": "sleeping"}), 422, "invalid")
    refused(client.get(URL, params={"page_size": 0}), 422, "invalid")


def test_others_jobs_are_not_there(client: TestClient, keys: Keys, job_id: str) -> None:
    for name, status in ((OTHER, 404), (CHIEF, 200)):
        headers = keys.headers(name)
        assert client.get(f"{URL}/{job_id}", headers=headers).status_code == status
        assert client.get(f"{URL}/{job_id}/events", headers={**headers, "Last-Event-ID": "x"}).status_code in (404, 422)
        assert bool(client.get(URL, headers=headers).json()["jobs"]) == (status == 200)
    headers = keys.headers(OTHER)
    for path in ("cancel", "retry", "report-link"):
        refused(client.post(f"{URL}/{job_id}/{path}", headers=headers), 404, "not-found")
    for path in ("result", "events", "files/index.html"):
        refused(client.get(f"{URL}/{job_id}/{path}", headers=headers), 404, "not-found")


def test_cancel_ends_a_waiting_job_and_is_idempotent(client: TestClient, queue: MemoryQueue, job_id: str) -> None:
    for _ in range(2):
        response = client.post(f"{URL}/{job_id}/cancel")
        assert (response.status_code, response.json()["state"]) == (202, "cancelled")
    assert queue.get(job_id).state == "cancelled"


def test_cancel_of_a_running_job_is_a_request(client: TestClient, queue: MemoryQueue, job_id: str) -> None:
    queue.begin(job_id)
    said = client.post(f"{URL}/{job_id}/cancel").json()
    assert (said["state"], said["cancel_requested"]) == ("running", True)
    queue.succeed(job_id)
    assert client.post(f"{URL}/{job_id}/cancel").json()["state"] == "succeeded"


def test_only_an_ended_job_is_tried_again(client: TestClient, queue: MemoryQueue, job_id: str) -> None:
    refused(client.post(f"{URL}/{job_id}/retry"), 409, "wrong-state")
    client.post(f"{URL}/{job_id}/cancel")
    said = client.post(f"{URL}/{job_id}/retry")
    assert (said.status_code, said.json()["state"], said.json()["round"]) == (202, "queued", 2)
    client.post(f"{URL}/{job_id}/cancel")
    queue.bound = 0
    refused(client.post(f"{URL}/{job_id}/retry"), 429, "queue-full")


@pytest.mark.parametrize("path", ["", "/events", "/result", "/files/index.html"])
def test_an_unknown_job_is_404_and_an_impossible_id_422(client: TestClient, path: str) -> None:
    refused(client.get(f"{URL}/{'0' * 32}{path}"), 404, "not-found")
    refused(client.get(f"{URL}/a%00b{path}"), 422, "invalid")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("GET", "/v1/explanations/", 404, "not-found"),
        ("PUT", "/v1/explanations", 405, "method-not-allowed"),
        ("DELETE", "/v1/info", 405, "method-not-allowed"),
        ("OPTIONS", "/", 405, "method-not-allowed"),
        ("GET", "/docs", 404, "not-found"),
        ("GET", "/v1/explanations/..%2f..%2fetc%2fpasswd", 404, "not-found"),
    ],
)
def test_whatever_is_not_there_is_a_problem(client: TestClient, method: str, path: str, status: int, kind: str) -> None:
    response = client.request(method, path)
    refused(response, status, kind)
    if status == 405:
        assert response.headers["allow"]


def test_an_unexpected_exception_is_500_without_its_text(
    app: FastAPI, keys: Keys, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("secret of the house")

    with caplog.at_level(logging.INFO, "gowhy.http"):
        response = TestClient(app, headers=keys.headers()).get("/boom", headers={"X-Request-ID": "given-by-client"})
    said = refused(response, 500, "internal")
    assert "secret" not in response.text
    assert said["request_id"] == "given-by-client"
    assert "secret of the house" in caplog.text


def test_a_store_that_is_down_is_503_without_its_text(app: FastAPI, keys: Keys) -> None:
    class Down(MemoryQueue):
        def get(self, job_id: str) -> base.JobRecord:
            raise base.StoreDown("password=hunter2")

        def ping(self) -> None:
            raise base.StoreDown("password=hunter2")

    app.state.services.queue = Down()
    client = TestClient(app, headers=keys.headers())
    for path in (f"{URL}/abc", "/v1/health/ready"):
        response = client.get(path)
        refused(response, 503, "unavailable")
        assert "hunter2" not in response.text
        assert int(response.headers["retry-after"]) >= 1


def test_every_error_has_a_kind() -> None:
    def below(kind: type[GowhyError]) -> set[str]:
        return {kind.code}.union(*(below(inner) for inner in kind.__subclasses__()))

    in_api = {code for code in below(GowhyError) if code in BY_CODE}
    assert {"internal", "usage", "integrity", *_codes_of(base)} <= in_api
    assert set(BY_CODE.values()) <= set(KINDS)


def _codes_of(module: object) -> set[str]:
    kinds = [item for item in vars(module).values() if isinstance(item, type) and issubclass(item, GowhyError)]
    return {kind.code for kind in kinds}


def test_info_and_metrics_say_what_is_there(client: TestClient, queue: MemoryQueue, job_id: str) -> None:
    queue.begin(job_id)
    info = client.get("/v1/info").json()
    assert info["queue"]["by_state"]["running"] == 1
    assert (info["caller"], info["scopes"]) == ("lab", ["cancel", "read", "submit"])
    for path in ("/metrics", "/v1/metrics"):
        text = client.get(path).text
        assert 'gowhy_jobs{state="running"} 1.0' in text
        assert f"gowhy_queue_bound {float(queue.bound)}" in text
        assert 'gowhy_http_requests_total{method="POST",route="/v1/explanations",status="202"} 1.0' in text
        assert job_id not in text


def test_metrics_need_a_token_unless_opened(client: TestClient, app_with, run: PublishedRun) -> None:  # type: ignore[no-untyped-def]
    refused(client.get("/metrics", headers={"Authorization": ""}), 401, "unauthorized")
    assert app_with(metrics_open=True).get("/metrics", headers={"Authorization": ""}).status_code == 200
