"""Results and reports: what is listed, nothing else, and pages that can do nothing to whoever opens them."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from fastapi.testclient import TestClient

from services.xai_worker.http.tickets import VALID_S, Tickets
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.services.xai_worker.http.conftest import OTHER, Keys
from tests.services.xai_worker.http.test_submit import URL, refused


@pytest.fixture
def job_id(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> str:
    found: str = client.post(URL, json={"run_id": run.run_id}).json()["id"]
    queue.begin(found)
    run.result(found)
    queue.succeed(found)
    return found


def test_a_result_lists_files_that_can_be_had(client: TestClient, run: PublishedRun, job_id: str) -> None:
    found = client.get(f"{URL}/{job_id}/result").json()
    assert set(found["files"]) == {"explanations.jsonl", "index.html", "reports/T1.html"}
    for name, record in found["files"].items():
        response = client.get(record["url"])
        assert response.content == (run.folder / "xai" / job_id / name).read_bytes()
        assert response.headers["etag"] == f'"{record["sha256"]}"'
        assert response.headers["x-content-type-options"] == "nosniff"
    assert "attachment" in client.get(found["files"]["explanations.jsonl"]["url"]).headers["content-disposition"]


def test_a_job_without_a_result_is_409(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    job_id = client.post(URL, json={"run_id": run.run_id}).json()["id"]
    refused(client.get(f"{URL}/{job_id}/result"), 409, "wrong-state")
    refused(client.post(f"{URL}/{job_id}/report-link"), 409, "wrong-state")
    queue.cancel(job_id)
    refused(client.get(f"{URL}/{job_id}/files/index.html"), 409, "wrong-state")


def test_a_result_that_was_removed_is_410(client: TestClient, run: PublishedRun, job_id: str) -> None:
    (run.folder / "xai" / job_id / "index.html").unlink()
    refused(client.get(f"{URL}/{job_id}/files/index.html"), 410, "gone")
    shutil.rmtree(run.folder / "xai" / job_id)
    refused(client.get(f"{URL}/{job_id}/result"), 410, "gone")


@pytest.mark.parametrize(
    "path",
    ["../../manifest.json", "..%2f..%2fmanifest.json", "%2e%2e/%2e%2e/manifest.json", "/etc/passwd", "%2fetc%2fpasswd",
     "result.json", "reports", "reports/..%2findex.html", "no.html", "index.html%00.txt", "C:\\x"],
)  # fmt: skip
def test_what_is_not_listed_is_not_there(client: TestClient, job_id: str, path: str) -> None:
    response = client.get(f"{URL}/{job_id}/files/{path}")
    assert response.status_code in (404, 405, 422), response.text
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("trick", ["link", "folder link", "pipe"])
def test_a_listed_file_that_became_something_else_is_not_followed(
    client: TestClient, run: PublishedRun, job_id: str, trick: str
) -> None:
    page = run.folder / "xai" / job_id / "reports" / "T1.html"
    if trick == "folder link":
        page.parent.rename(run.out.parent / "reports")
        page.parent.symlink_to(run.out.parent / "reports")
    else:
        page.unlink()
        page.symlink_to("/etc/passwd") if trick == "link" else os.mkfifo(page)
    response = client.get(f"{URL}/{job_id}/files/reports/T1.html")
    refused(response, 410, "gone")
    assert "root:" not in response.text


def test_a_result_record_that_names_a_system_file_gets_nothing(
    client: TestClient, run: PublishedRun, job_id: str
) -> None:
    path = run.folder / "xai" / job_id / "result.json"
    record = json.loads(path.read_bytes())
    for name in ("../../../../etc/passwd", "/etc/passwd", "../../manifest.json"):
        record["files"][name] = {"sha256": "0" * 64, "size": 1}
        path.write_text(json.dumps(record))
        response = client.get(f"{URL}/{job_id}/files/{name.replace('/', '%2f')}")
        assert response.status_code in (404, 410)
        assert "root:" not in response.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', "[" * 100_000])
def test_a_broken_result_record_is_410(client: TestClient, run: PublishedRun, job_id: str, text: str) -> None:
    (run.folder / "xai" / job_id / "result.json").write_text(text)
    refused(client.get(f"{URL}/{job_id}/result"), 410, "gone")


def test_a_report_link_opens_the_report_without_a_token(client: TestClient, keys: Keys, job_id: str) -> None:
    link = client.post(f"{URL}/{job_id}/report-link").json()["url"]
    no_token = {"Authorization": ""}
    index = client.get(link, headers=no_token)
    assert "T1" in index.text
    policy = index.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert "a report" in client.get(link.replace("index.html", "reports/T1.html"), headers=no_token).text
    forged = link.replace(job_id, "0" * 32)
    refused(client.get(forged, headers=no_token), 404, "not-found")
    refused(client.get(link.replace("index.html", "..%2f..%2fmanifest.json"), headers=no_token), 404, "not-found")
    refused(client.get(f"{URL}/{job_id}", headers=no_token), 401, "unauthorized")
    refused(client.post(f"{URL}/{job_id}/report-link", headers=keys.headers(OTHER)), 404, "not-found")


def test_tickets_end_and_cannot_be_changed() -> None:
    tickets = Tickets(b"k" * 32)
    ticket, end = tickets.make("job-1", now=1000.0)
    assert end == 1000 + VALID_S
    assert tickets.job_of(ticket, now=1000.0) == "job-1"
    assert tickets.job_of(ticket, now=end) is None
    assert Tickets(b"x" * 32).job_of(ticket, now=1000.0) is None
    for forged in ("", ".", "..", "job-1", ticket[:-1], ticket + "0", ticket.replace("job-1", "job-2"), "ü.1.2"):
        assert tickets.job_of(forged, now=1000.0) is None
