from __future__ import annotations

import datetime
import email.utils
import itertools

import pytest
from fakes.flat_entries import entry
from fakes.uniprot_server import Clock, UniprotServer, body, cut_off, serving, status

from services.train.text.cache import FetchCache, Fetched
from services.train.text.record import TextRecord
from services.train.text.rest import Patience, UniprotClient, fetch_missing, retry_after_s
from shared.errors import ServiceUnavailable

NAMES = [f"P{n:05d}" for n in range(12)]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def client(server, clock=None, batch_size=4, rate=1000.0, jitter=0.5, **patience) -> UniprotClient:
    clock = clock or Clock()
    return UniprotClient(
        server.url, batch_size, rate, Patience(**patience), clock=clock, sleep=clock.sleep, jitter=lambda: jitter
    )


def fetch(server, names=NAMES, **options) -> dict[str, bool]:
    with client(server, **options) as service:
        return {item.accession: item.record is not None for batch in service.fetch(names) for item in batch}


def server(**more) -> UniprotServer:
    return UniprotServer({name: entry(name) for name in NAMES}, **more)


def test_every_accession_is_answered_and_unknown_ones_say_so():
    with serving(server()) as running:
        assert fetch(running, [*NAMES, "Q00000"]) == {**dict.fromkeys(NAMES, True), "Q00000": False}
        assert [len(asked) for asked in running.asked] == [4, 4, 4, 1]


def test_a_merged_accession_gets_the_record_it_went_into_and_a_primary_one_its_own():
    records = {"P00001": entry("P00001", "P00003"), "P00003": entry("P00003")}
    with serving(UniprotServer(records)) as running, client(running) as service:
        # The record is found by its primary accession here; its secondary ones answer for the rest of the batch.
        (batch,) = service.fetch(["P00001", "P00003"])
        assert [item.record.accessions[0] for item in batch] == ["P00001", "P00003"]
        del records["P00003"]
        (batch,) = service.fetch(["P00001", "P00003"])
        assert [item.record.accessions[0] for item in batch] == ["P00001", "P00001"]


def test_all_pages_of_an_answer_are_read():
    with serving(server(page_size=3)) as running:
        assert all(fetch(running, batch_size=8).values())
        assert len(running.asked) == 3 + 2


@pytest.mark.parametrize(
    "fault",
    [
        status(429),
        status(500),
        status(502),
        status(503),
        status(504),
        cut_off,
        body(b"<html>"),
        body(b"ID   P1\nAC   P1;\n"),
    ],
)
def test_a_passing_failure_is_tried_again(fault):
    with serving(server(faults=[fault, fault])) as running:
        assert all(fetch(running).values())
        assert len(running.asked) == 3 + 2


def test_waits_grow_with_full_jitter_up_to_the_cap():
    clock = Clock()
    with serving(server(faults=[status(503)] * 6)) as running:
        fetch(running, NAMES[:1], clock=clock, jitter=0.5, base_s=1.0, cap_s=6.0)
    assert [seconds for seconds in clock.slept if seconds > 0.01] == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


def test_retry_after_is_honoured():
    clock = Clock()
    with serving(server(faults=[status(429, Retry_After="17")])) as running:
        assert all(fetch(running, NAMES[:1], clock=clock).values())
    assert 17.0 in clock.slept


def test_a_very_long_retry_after_ends_the_attempt_at_once():
    clock = Clock()
    long_wait = server(faults=[status(429, Retry_After="86400")])
    with serving(long_wait) as running, pytest.raises(ServiceUnavailable, match="Retry-After 86400 s"):
        fetch(running, clock=clock)
    assert clock.slept == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        ("12", 12.0),
        ("soon", 0.0),
        (email.utils.format_datetime(datetime.datetime(2024, 1, 1, 0, 1, tzinfo=datetime.UTC), usegmt=True), 60.0),
        (email.utils.format_datetime(datetime.datetime(2023, 1, 1, tzinfo=datetime.UTC), usegmt=True), 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    now = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert retry_after_s(value, lambda: now) == seconds


def test_a_service_that_stays_down_is_unavailable_after_all_attempts():
    with serving(server(rule=status(503))) as running:
        with pytest.raises(ServiceUnavailable, match=r"status 503.*Run again later"):
            fetch(running, attempts=4)
        assert len(running.asked) == 4


def test_a_closed_port_is_unavailable():
    with serving(server()) as running:
        pass
    with pytest.raises(ServiceUnavailable, match="ConnectError"):
        fetch(running, attempts=2)


def test_other_refusals_are_not_tried_again():
    with serving(server(rule=status(403))) as running:
        with pytest.raises(ServiceUnavailable, match="status 403"):
            fetch(running)
        assert len(running.asked) == 1


@pytest.mark.parametrize("code", [400, 414])
def test_a_refused_batch_is_halved_until_only_the_bad_accession_is_left(code):
    refuse = status(code)
    with serving(server(rule=lambda handler, asked: NAMES[5] in asked and refuse(handler, asked))) as running:
        assert fetch(running, batch_size=12) == {name: name != NAMES[5] for name in NAMES}


def test_requests_keep_their_distance():
    clock = Clock()
    times = []
    with serving(server(rule=lambda _handler, _asked: times.append(clock.now) or False)) as running:
        fetch(running, clock=clock, batch_size=2, rate=4.0)
    assert [round(later - earlier, 6) for earlier, later in itertools.pairwise(times)] == [0.25] * 5


def test_a_next_page_on_another_host_is_not_followed():
    def elsewhere(handler, _asked) -> bool:
        handler.send_response(200)
        handler.send_header("Link", '<http://example.invalid/uniprotkb/search>; rel="next"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    with serving(server(rule=elsewhere)) as running, pytest.raises(ServiceUnavailable, match=r"example\.invalid"):
        fetch(running)


def test_pages_without_end_are_not_followed_for_ever():
    def next_is_itself(handler, _asked) -> bool:
        handler.send_response(200)
        handler.send_header("Link", f'<{handler.path}>; rel="next"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    with serving(server(rule=next_is_itself)) as running, pytest.raises(ServiceUnavailable, match="100 pages"):
        fetch(running)


def test_what_was_fetched_before_a_failure_is_not_fetched_again(tmp_path):
    path = tmp_path / "uniprot" / "cache.jsonl"
    die = status(403)
    with serving(server(rule=lambda handler, asked: NAMES[9] in asked and die(handler, asked))) as running:
        with FetchCache(path) as cache, client(running) as service, pytest.raises(ServiceUnavailable):
            fetch_missing(service, cache, NAMES, lambda _n: None)
        running.rule = None
        running.asked.clear()
        done: list[int] = []
        with FetchCache(path) as cache, client(running) as service:
            assert fetch_missing(service, cache, [*NAMES, "not-an-accession"], done.append) == 1
            assert running.asked == [NAMES[8:]]
            assert all(cache[name].record.accessions == (name,) for name in NAMES)
        assert sum(done) == len(NAMES)


RECORD = TextRecord(("P00001",), datetime.date(2020, 1, 2), (("names", "a\tb\u2028"),))


def test_a_torn_last_line_is_forgotten_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "cache.jsonl"
    with FetchCache(path) as cache:
        cache.add([Fetched("P00001", RECORD, "2024_01"), Fetched("P00002", None, None)])
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(0, len(whole), 3):
        path.write_bytes(whole[:cut])
        with FetchCache(path) as cache:
            assert ("P00001" in cache, "P00002" in cache) == (cut >= len(lines[0]), False)
            cache.add([Fetched("P00003", RECORD, None)])
            assert cache["P00003"] == Fetched("P00003", RECORD, None)
        with FetchCache(path) as cache:
            assert "P00003" in cache
            assert cut < len(lines[0]) or cache["P00001"] == Fetched("P00001", RECORD, "2024_01")


def test_two_runs_may_share_the_cache(tmp_path):
    path = tmp_path / "cache.jsonl"
    with FetchCache(path) as one, FetchCache(path) as other:
        for n in range(20):
            (one, other)[n % 2].add([Fetched(f"P{n:05d}", RECORD, None), Fetched(f"Q{n:05d}", None, None)])
        assert all((one, other)[n % 2][f"{c}{n:05d}"].accession == f"{c}{n:05d}" for n in range(20) for c in "PQ")
