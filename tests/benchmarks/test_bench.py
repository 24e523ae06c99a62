import json
import math
import sys
import types

import numpy as np
import pytest

from benchmarks import bench
from benchmarks.gates import Gate
from benchmarks.peers.client import PeerMissing
from benchmarks.peers.contest import Contest, interleave
from benchmarks.rows import ROWS
from benchmarks.rows.base import Comparison, compare, refusal, table


def line(**changes):
    given = {
        "name": "row",
        "peer": "peer",
        "sizes": "10",
        "least": 2.0,
        "ours": [1.0, 1.0, 1.0],
        "theirs": [3.0, 3.0, 3.0],
        "difference": 0.0,
        "tolerance": 0.0,
    }
    return Comparison(**{**given, **changes})


def test_a_row_that_is_fast_and_equal_holds():
    assert line().misses == []
    assert line().gate().holds


def test_a_slow_row_fails():
    slow = line(ours=[2.0, 2.0, 2.0])
    assert slow.ratio == 1.5
    assert "below 2.0" in slow.gate().found
    assert not slow.gate().holds


def test_the_ratio_is_the_median_of_the_rounds_own_ratios():
    assert line(ours=[1.0, 2.0, 4.0], theirs=[3.0, 10.0, 4.0]).ratio == 3.0
    assert line(ours=[1.0, 2.0, 4.0], theirs=[3.0, 10.0, 4.0]).spread == 4.0


@pytest.mark.parametrize("difference", [1e-3, math.nan, math.inf])
def test_a_fast_row_of_another_result_fails(difference):
    assert not line(difference=difference, tolerance=1e-6).gate().holds


def test_a_row_below_its_share_of_the_limit_fails():
    assert not line(fraction=0.5, least_fraction=0.62).gate().holds
    assert not line(least_fraction=0.62).gate().holds
    assert line(fraction=0.7, least_fraction=0.62).gate().holds


def test_further_conditions_count():
    assert not line(also=(Gate("memory", False, "too much"),)).gate().holds
    assert line(also=(Gate("memory", True, "3x"),)).gate().holds


def test_rounds_of_different_numbers_have_no_ratio():
    assert line(ours=[1.0]).ratio is None
    assert not line(ours=[1.0]).gate().holds


def test_rounds_interleave_and_the_warm_up_is_not_counted():
    calls = []

    def way(name):
        def run():
            calls.append(name)
            return float(len(calls)), np.array(len(calls))

        return run

    contest = interleave({"a": way("a"), "b": way("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert contest.seconds == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_peer_that_was_skipped_is_refused():
    contest = Contest({"ours": [1.0]}, {}, {"peer": "not installed"})
    found = compare(contest, "ours", "peer", name="row", sizes="1", least=1.0, difference=0.0, tolerance=0.0)
    assert found.misses == ["not installed"]
    assert "refused" in table([found])


def module(monkeypatch, name, found):
    made = types.ModuleType(name)

    def rows(rounds):
        if isinstance(found, Exception):
            raise found
        return found

    made.compare = rows
    monkeypatch.setitem(sys.modules, name, made)
    return name


def test_the_run_ends_with_the_names_that_miss(monkeypatch, tmp_path, capsys):
    rows = {
        "fast": module(monkeypatch, "bench_fast", [line(name="fast")]),
        "slow": module(monkeypatch, "bench_slow", [line(name="slow", ours=[9.0, 9.0, 9.0])]),
        "absent": module(monkeypatch, "bench_absent", PeerMissing("no interpreter")),
    }
    assert bench.main(["--out", str(tmp_path)], rows) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "FAIL 1/3: slow, absent"
    document = json.loads((tmp_path / "bench.json").read_bytes())
    assert [row["ratio"] for row in document["rows"]] == [3.0, pytest.approx(1 / 3), None]
    assert bench.main(["--out", str(tmp_path), "--row", "fast"], rows) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "PASS 1/1"


def test_a_package_that_is_not_installed_is_refused_with_what_to_do(monkeypatch):
    error = ModuleNotFoundError("No module named 'peerlib'", name="peerlib")
    (found,) = bench.measured("row", module(monkeypatch, "bench_peerless", error), 1)
    assert "peerlib is not installed" in found.refused
    assert "make bench" in found.refused


def test_a_broken_row_is_not_taken_for_a_missing_peer(monkeypatch):
    error = ModuleNotFoundError("No module named 'benchmarks.nothing'", name="benchmarks.nothing")
    with pytest.raises(ModuleNotFoundError):
        bench.measured("row", module(monkeypatch, "bench_broken", error), 1)


def test_a_refusal_never_passes():
    assert not refusal("row", "no peer").gate().holds


def test_every_registered_row_has_its_module():
    for name, path in ROWS.items():
        assert (bench.Path(path.replace(".", "/") + ".py")).is_file(), name
