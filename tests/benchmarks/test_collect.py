"""Committed results say what made them, and are what a run's manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.finished_run import STAGES, make_finished_run

from benchmarks.collect import collect

RUNS = (path for path in (Path(__file__).resolve().parents[2] / "benchmarks/results").glob("*.json"))
RESULTS = sorted(path for path in RUNS if path.name != "scale.json")  # which is of no run


def test_figures_and_times_are_the_manifest_s(tmp_path) -> None:
    make_finished_run(tmp_path)
    found = collect(tmp_path / "manifest.json")
    assert found["metrics"]["test"]["gcn"]["fmax_w/MF"] == 0.25
    assert found["metrics"]["test"]["naive"]["fmax_w/MF"] == 0.1
    assert set(found["metrics"]["val"]) == {"gcn"}
    assert "mae/val" not in found["metrics"]["val"]["gcn"]
    assert found["stage_seconds"]["stage_08_stacker"] == STAGES["stage_08_stacker"][0]
    assert found["encoders"] == ["esm2_tiny (random-init(0))"]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_committed_results_name_their_commit_and_data(path) -> None:
    found = json.loads(path.read_bytes())
    assert len(found["commit"]) == 40
    assert found["is_dirty"] is False
    assert found["dataset"]["name"]
    assert found["metrics"]["val"]["gcn"]
    assert len(path.read_bytes()) < 100_000
