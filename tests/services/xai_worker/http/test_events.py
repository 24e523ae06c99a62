"""Server-sent events: all of the history, then the news, then an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from services.xai_worker.client import parse_events
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.services.xai_worker.http.test_submit import URL, refused


@pytest.fixture
def job_id(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> str:
    found: str = client.post(URL, json={"run_id": run.run_id}).json()["id"]
    queue.begin(found)
    for done in range(3):
        queue.report(found, {"done": done, "total": 3, "protein": f"T{done}", "model": "cnn", "method": "occlusion"})
    return found


def test_the_whole_story_ends_with_the_final_state(client: TestClient, queue: MemoryQueue, job_id: str) -> None:
    queue.succeed(job_id)
    response = client.get(f"{URL}/{job_id}/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = list(parse_events(iter(response.text.split("\n"))))
    assert [kind for _, kind, _ in events] == ["queued", "attempt", "running", *["progress"] * 3, "succeeded"]
    assert [number for number, _, _ in events] == list(range(1, 8))
    assert events[4][2]["protein"] == "T1"


@pytest.mark.parametrize("seen", [0, 1, 6, 7, 99])
def test_a_stream_goes_on_where_it_was_cut(client: TestClient, queue: MemoryQueue, job_id: str, seen: int) -> None:
    queue.succeed(job_id)
    response = client.get(f"{URL}/{job_id}/events", headers={"Last-Event-ID": str(seen)})
    numbers = [number for number, _, _ in parse_events(iter(response.text.split("\n")))]
    assert numbers == list(range(seen + 1, 8))


def test_news_arrive_while_the_stream_is_open(client: TestClient, queue: MemoryQueue, job_id: str) -> None:
    def work() -> None:
        time.sleep(0.1)
        queue.report(job_id, {"done": 3, "total": 3})
        time.sleep(0.1)
        queue.fail(job_id)

    worker = threading.Thread(target=work)
    worker.start()
    text = client.get(f"{URL}/{job_id}/events", headers={"Last-Event-ID": "6"}).text
    worker.join()
    assert [(number, kind) for number, kind, _ in parse_events(iter(text.split("\n")))] == [
        (7, "progress"),
        (8, "failed"),
    ]


def test_the_end_of_an_earlier_round_does_not_end_the_stream(
    client: TestClient, queue: MemoryQueue, job_id: str
) -> None:
    queue.fail(job_id)
    queue.retry(job_id)
    queue.begin(job_id)
    queue.succeed(job_id)
    kinds = [kind for _, kind, _ in parse_events(iter(client.get(f"{URL}/{job_id}/events").text.split("\n")))]
    assert kinds[-5:] == ["failed", "queued", "attempt", "running", "succeeded"]


@pytest.mark.parametrize("why", ["draining", "old"])
def test_a_stream_without_an_end_asks_to_come_back(
    app_with: Callable[..., TestClient], queue: MemoryQueue, job_id: str, why: str
) -> None:
    if why == "draining":
        threading.Timer(0.1, queue.drain).start()
    text = app_with(stream_s=0.3 if why == "old" else 60).get(f"{URL}/{job_id}/events").text
    assert "retry: 3000" in text
    assert "event: running" in text


def test_streams_are_bounded(app_with: Callable[..., TestClient], queue: MemoryQueue, job_id: str) -> None:
    client = app_with(max_streams=1, stream_s=2)
    first = threading.Thread(target=client.get, args=(f"{URL}/{job_id}/events",))
    first.start()
    time.sleep(0.3)
    refused(client.get(f"{URL}/{job_id}/events"), 429, "too-many-streams")
    queue.succeed(job_id)
    first.join()
    assert client.get(f"{URL}/{job_id}/events").status_code == 200


def test_a_strange_last_event_id_is_422(client: TestClient, job_id: str) -> None:
    refused(client.get(f"{URL}/{job_id}/events", headers={"Last-Event-ID": "1; drop"}), 422, "invalid")
