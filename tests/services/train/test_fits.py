"""Fits that several processes make: each once, whoever ends when, with the bytes of one process alone."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from services.train import fits, peak
from services.train.fits import claimed, divides, fit_threads, helper_count
from tests.fakes import divided
from tests.fakes.divided import STEPS
from tests.fakes.team import Caller

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Helpers are started without delay."""
    monkeypatch.setattr(fits, "PATIENCE_S", 0.0)


def begun(folder: Path) -> list[tuple[str, int, bool]]:
    """Fit, process and whether it was a helper, of each time that a fit was begun."""
    if not (folder / "begun.txt").exists():
        return []
    lines = [line.split() for line in (folder / "begun.txt").read_text().splitlines()]
    return [(name, int(process), helps == "1") for name, process, helps in lines]


def helped(folder: Path) -> list[int]:
    return [process for _, process, helps in begun(folder) if helps]


def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """`act` in a thread beside the block; the block's end waits for it."""
    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()


@pytest.mark.usefixtures("at_once")
def test_a_helper_makes_a_part_of_the_fits_and_nobody_makes_one_twice(tmp_path: Path) -> None:
    ctx = divided.context(tmp_path, threads=2, fits=20, seconds=0.1)
    divided.run(ctx)
    assert sorted(name for name, _, _ in begun(tmp_path)) == sorted(f"{number}/a" for number in range(20))
    assert {process for _, process, helps in begun(tmp_path) if not helps} == {os.getpid()}
    (helper,) = set(helped(tmp_path))
    assert not psutil.pid_exists(helper)
    assert ctx.helped[0] > 10 << 20  # bytes that the helper held
    with (tmp_path / "logs/epochs.csv").open() as file:  # the leader writes what the helper logs
        rows = list(csv.DictReader(file))
    assert sorted((row["model"], int(row["epoch"])) for row in rows) == sorted(
        (f"{number}/a", step) for number in range(20) for step in range(STEPS)
    )


@pytest.mark.usefixtures("at_once")
def test_progress_counts_the_steps_of_all_and_those_of_earlier_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tallies: list[fits.Tally] = []
    honest = fits.Tally

    def noted(*arguments: object) -> fits.Tally:
        tallies.append(honest(*arguments))
        return tallies[-1]

    monkeypatch.setattr(fits, "Tally", noted)
    ctx = divided.context(tmp_path, threads=2, fits=20, seconds=0.1)
    ctx.work.mkdir()
    (ctx.work / "made_7").write_text("earlier")
    divided.run(ctx)
    assert helped(tmp_path)
    assert (tallies[0].bar.start, tallies[0].bar.done, tallies[0].bar.total) == (STEPS, 20 * STEPS, 20 * STEPS)
    assert (ctx.work / "made_7").read_text() == "earlier"


@pytest.mark.parametrize(("threads", "patience"), [(1, 0.0), (2, 60.0)])
def test_no_helper_is_started_for_one_thread_or_for_little_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, patience: float
) -> None:
    (tmp_path / "begun.txt").touch()
    monkeypatch.setattr(fits, "PATIENCE_S", patience)
    monkeypatch.setattr(fits, "Helper", None)
    ctx = divided.context(tmp_path, threads=threads, fits=4, seconds=0.1)
    divided.run(ctx)
    assert len(begun(tmp_path)) == 4
    assert ctx.helped == []


@pytest.mark.usefixtures("at_once")
def test_what_a_helper_cannot_make_the_leader_makes_and_the_log_says_so(tmp_path: Path) -> None:
    divided.run(divided.context(tmp_path, threads=2, fits=20, seconds=0.1, wrong="helper"))
    assert len(helped(tmp_path)) == 1
    assert "a helper ended" in (tmp_path / "logs/run.jsonl").read_text()
    assert {(tmp_path / "work" / f"made_{number}").read_text() for number in range(20)} == {str(os.getpid())}


@pytest.mark.usefixtures("at_once")
def test_where_no_process_can_be_started_the_leader_makes_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(fits, "Helper", refused)
    (tmp_path / "begun.txt").touch()
    divided.run(divided.context(tmp_path, threads=2, fits=4, seconds=0.1))
    assert len(begun(tmp_path)) == 4
    assert "no helper can be started" in (tmp_path / "logs/run.jsonl").read_text()


@pytest.mark.usefixtures("at_once")
def test_a_killed_helper_costs_only_time(tmp_path: Path) -> None:
    def kill() -> None:
        until(lambda: helped(tmp_path))
        os.kill(helped(tmp_path)[0], signal.SIGKILL)

    with meanwhile(kill):
        divided.run(divided.context(tmp_path, threads=2, fits=20, seconds=0.1))
    names = [name for name, _, _ in begun(tmp_path)]
    assert len(names) == 21  # the one in the helper's hands, again
    assert len(set(names)) == 20
    assert all((tmp_path / "work" / f"made_{number}").exists() for number in range(20))


@pytest.mark.usefixtures("at_once")
def test_the_leader_s_error_is_raised_and_ends_the_helpers(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    with pytest.raises(ValueError, match="the leader cannot make 0/a"):
        divided.run(divided.context(tmp_path, threads=3, fits=9, seconds=0.1, wrong="leader"))
    assert set(psutil.Process().children()) <= before | {
        child for child in psutil.Process().children() if "resource_tracker" in " ".join(child.cmdline())
    }


def test_helpers_end_with_a_killed_leader_and_the_next_one_goes_on(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    leader = spawn.Process(target=lead, args=(tmp_path,))
    leader.start()
    until(lambda: helped(tmp_path))
    leader.kill()
    leader.join()
    until(lambda: not psutil.pid_exists(helped(tmp_path)[0]), seconds=10)  # less than its step would take
    assert not list((tmp_path / "work").glob("made_*"))
    divided.run(divided.context(tmp_path, threads=1, fits=30, seconds=0.0))
    assert len(list((tmp_path / "work").glob("made_*"))) == 30


def lead(folder: Path) -> None:
    """A leader in a process of its own."""
    fits.PATIENCE_S = 0.0
    divided.run(divided.context(folder, threads=2, fits=30, seconds=100.0))  # a step of 25 s


def test_a_fit_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    ctx = divided.context(tmp_path, threads=1, fits=2, seconds=0.0)
    ctx.work.mkdir()
    held = os.open(ctx.work / "0_a.claim", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    with claimed(ctx, "0/a") as mine, claimed(ctx, "1/a") as free:
        assert (mine, free) == (False, True)

    def give_up() -> None:
        until(lambda: (ctx.work / "made_1").exists())
        assert not (ctx.work / "made_0").exists()
        os.close(held)

    with meanwhile(give_up):
        divided.run(ctx)
    assert [name for name, _, _ in begun(tmp_path)] == ["1/a", "0/a"]


@pytest.mark.parametrize(
    ("threads", "open_fits", "free", "expected"),
    [
        (1, 9, 64, 0),
        (2, 1, 64, 0),
        (2, 0, 64, 0),
        (4, 9, 64, 3),
        (16, 5, 64, 4),
        (16, 20, 6, 3),  # each is given as much as this one holds, and 1 GiB: 2 GiB
        (16, 20, 1, 1),
        (16, 20, None, 15),
    ],
)
def test_helpers_are_as_many_as_threads_fits_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, threads: int, open_fits: int, free: int | None, expected: int
) -> None:
    monkeypatch.setattr(fits, "available_bytes", lambda: None if free is None else free << 30)
    monkeypatch.setattr(fits, "resident_bytes", lambda: 1 << 30)
    assert helper_count(threads, open_fits) == expected


def test_a_team_makes_fits_together_and_a_gpu_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = divided.context(tmp_path, threads=3, fits=1, seconds=0.0)
    assert divides(ctx)
    assert fit_threads(ctx) == 1
    together = replace(ctx, team=Caller(size=2))
    assert not divides(together)
    assert fit_threads(together) == 1
    assert not divides(replace(ctx, threads=1))
    monkeypatch.setattr(fits, "resolve_device", lambda _device: type("Device", (), {"type": "cuda"}))
    assert not divides(ctx)
    assert fit_threads(ctx) == 3


def test_free_memory_is_the_machine_s_or_what_the_container_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peak, "MACHINE", tmp_path / "meminfo")
    monkeypatch.setattr(peak, "CONTAINER", tmp_path)
    assert peak.available_bytes() is None
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   40 kB\n")
    assert peak.available_bytes() == 40 << 10
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert peak.available_bytes() == 40 << 10
    (tmp_path / "memory.max").write_text("7000\n")
    assert peak.available_bytes() == 2000
    (tmp_path / "memory.current").write_text("9000\n")
    assert peak.available_bytes() == 0
