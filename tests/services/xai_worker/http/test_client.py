"""`submit` against a running service: exit codes, retries, lost connections."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import stamina

from services.xai_worker.cli import build_parser
from services.xai_worker.client import Worker, parse_events
from services.xai_worker.http_settings import HttpSettings
from shared.edge import main
from shared.errors import ServiceUnavailable
from shared.progress import progress
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.fakes.served import Worker as FakeWorker
from tests.fakes.served import served
from tests.services.xai_worker.http.conftest import Keys


@pytest.fixture
def worker(queue: MemoryQueue, run: PublishedRun) -> Iterator[FakeWorker]:
    made = FakeWorker(queue, run)
    made.start()
    yield made
    made.stopping.set()
    made.join()


@pytest.fixture
def base(
    queue: MemoryQueue, run: PublishedRun, keys: Keys, monkeypatch: pytest.MonkeyPatch, worker: FakeWorker
) -> Iterator[str]:
    monkeypatch.setenv("GOWHY_XAI_TOKEN", keys.plain["lab"])
    with served(queue, HttpSettings(out=run.out, stream_poll_s=0.02), keys.known) as address:
        yield address


def submit(base: str, run: PublishedRun, *more: str) -> int:
    return main(build_parser(), ["submit", str(run.path), "--url", base, "--quiet", *more])


def test_wait_ends_with_the_result(
    base: str, run: PublishedRun, queue: MemoryQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(base, run, "--wait", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "succeeded"
    assert said["result_record"]["counts"] == {"explanations": 1}
    assert (run.out / said["result"] / "result.json").is_file()
    assert httpx.get(said["report"]).status_code == 200
    assert submit(base, run) == 0
    assert capsys.readouterr().out.split()[1] == "queued"


def test_a_failed_job_gives_its_errors_exit_code(
    base: str, run: PublishedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(base, run, "--wait", "--seed", "13") == 80
    assert "another model would be explained" in capsys.readouterr().err


def test_once_finds_the_job_of_an_earlier_call_and_tries_a_failed_one_again(
    base: str, run: PublishedRun, queue: MemoryQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert submit(base, run, "--wait", "--once") == 0
    assert len(queue.jobs) == 1
    for _ in range(2):
        assert submit(base, run, "--wait", "--once", "--seed", "13") == 80
    assert len(queue.jobs) == 2
    assert sorted(job.round for job in queue.jobs.values()) == [1, 2]


def test_a_cancelled_job_is_75(base: str, run: PublishedRun, queue: MemoryQueue, worker: FakeWorker) -> None:
    worker.go.clear()

    def cancel() -> None:
        while not queue.jobs:
            time.sleep(0.01)
        queue.cancel(next(iter(queue.jobs)))

    threading.Thread(target=cancel, daemon=True).start()
    assert submit(base, run, "--wait") == 75


@pytest.mark.parametrize(
    ("change", "code"), [({"python": "9"}, 80), ({"status": "partial"}, 80), ({"manifest_version": "7.0"}, 80)]
)
def test_a_refused_manifest_is_80(
    base: str, run: PublishedRun, capsys: pytest.CaptureFixture[str], change: dict[str, str], code: int
) -> None:
    other = run.out.parent / "sent.json"
    other.write_text(json.dumps({**run.value, **change}))
    assert main(build_parser(), ["submit", str(other), "--url", base, "--quiet"]) == code
    assert "refused" in capsys.readouterr().err


def test_a_wrong_token_is_77(base: str, run: PublishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOWHY_XAI_TOKEN", "w" * 32)
    assert submit(base, run) == 77


def test_a_missing_manifest_is_66(base: str) -> None:
    assert main(build_parser(), ["submit", "/nowhere/manifest.json", "--url", base, "--quiet"]) == 66


def test_a_full_queue_is_tried_again_until_there_is_room(
    base: str, run: PublishedRun, queue: MemoryQueue, worker: FakeWorker
) -> None:
    queue.bound = 0
    threading.Timer(0.5, setattr, (queue, "bound", 5)).start()
    assert submit(base, run, "--wait") == 0
    assert len(queue.jobs) == 1


def test_no_service_is_69(run: PublishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    with stamina.set_testing(True, attempts=2):
        assert submit("http://127.0.0.1:1", run) == 69
    assert "make serve" in capsys.readouterr().err


def test_a_repeated_attempt_finds_the_first_job(run: PublishedRun, queue: MemoryQueue, base: str, keys: Keys) -> None:
    """The first answer is lost on its way back: the job was taken all the same, and only once."""
    lost = []

    class Losing(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.method == "POST" and not lost:
                response.read()
                lost.append(response.status_code)
                raise httpx.ReadError("the line was cut")
            return response

    with httpx.Client(base_url=base, headers=keys.headers(), transport=Losing()) as http:
        job = Worker(http).submit(run.path.read_bytes())
    assert lost == [202]
    assert list(queue.jobs) == [job["id"]]


def test_a_job_is_followed_over_cut_streams(run: PublishedRun, queue: MemoryQueue, base: str, keys: Keys) -> None:
    class Cutting(httpx.HTTPTransport):
        opened = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path.endswith("/events"):
                self.opened += 1
                if self.opened < 3:
                    raise httpx.ReadError("the line was cut")
            return super().handle_request(request)

    cutting = Cutting()
    with httpx.Client(base_url=base, headers=keys.headers(), transport=cutting) as http:
        client = Worker(http)
        with progress("job", 1) as show:
            assert client.follow(client.submit(run.path.read_bytes()), show)["state"] == "succeeded"
        assert (show.total, show.done) == (3, 2)
    assert cutting.opened == 3


def test_a_service_that_stays_away_is_named(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.xai_worker.client.ATTEMPTS", 1)
    job = {"links": {"events": "/e", "self": "/s"}}
    with httpx.Client(base_url="http://127.0.0.1:1") as http, progress("job", 1) as show:  # noqa: SIM117 - one call raises
        with pytest.raises(ServiceUnavailable, match="lost"):
            Worker(http).follow(job, show)


def test_events_are_read_as_the_standard_says() -> None:
    lines = [
        ": ping",
        "",
        "event: progress",
        'data: {"a": 1}',
        "id: 4",
        "",
        "retry: 3000",
        "",
        "data: {}",
        "",
        "event: cut",
    ]
    assert list(parse_events(iter(lines))) == [(4, "progress", {"a": 1}), (0, "message", {})]


def test_a_token_line_and_its_token_fit(capsys: pytest.CaptureFixture[str]) -> None:
    from services.xai_worker.http.tokens import parse_line, sha256_of

    assert main(build_parser(), ["token", "ci", "--scope", "read", "--days", "30"]) == 0
    printed = capsys.readouterr()
    made = parse_line(printed.out, where="stdout")
    assert sha256_of(printed.err.split()[-1]) == made.sha256
    assert (made.name, made.scopes) == ("ci", {"read"})
    assert made.expires is not None


@pytest.mark.slow
def test_a_service_of_its_own_is_started_and_stopped(run: PublishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole service for one job; this run holds no model, so the job fails, with the code of its reason."""
    assert main(build_parser(), ["submit", str(run.path), "--serve", "--quiet", "--json"]) in (66, 80)
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["attempt"]) == ("failed", 1)
