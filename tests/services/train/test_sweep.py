"""A grid becomes configs, each is run once, and the table says what came of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from services.train.cli import build_parser
from services.train.sweep import parse_grid, prepare, run_all, table
from shared.config.load import load_config
from shared.edge import main
from shared.errors import ConfigError, UsageError

REPOSITORY = Path(__file__).resolve().parents[3]

# Does what `run` does as far as a sweep sees it: finds its config, leaves metrics, ends with a code.
FAKE_RUN = """
import json, sys
from pathlib import Path
from shared.config.load import load_config
out, overrides = Path(sys.argv[1]), Path(sys.argv[3])
assert sys.argv[2] == "--overrides"
loaded = load_config(None, environment={}, sets=[f"paths.out={out}"], overrides=overrides)
with (out / "ran.txt").open("a") as log:
    log.write(loaded.run_id + "\\n")
if loaded.config.stacker.layers == 9:
    raise SystemExit(75)
if loaded.config.stacker.layers == 8:
    raise SystemExit(130)
folder = out / loaded.run_id
folder.mkdir(parents=True, exist_ok=True)
value = loaded.config.stacker.epochs / 10
metrics = {"val": {"gcn": {"fmax_w/MF": value, "fmax_w/BP": None}}, "test": {"gcn": {"fmax_w/MF": 0.99}}}
(folder / "metrics.json").write_text(json.dumps(metrics))
"""


@pytest.fixture
def out(tmp_path) -> Path:
    (tmp_path / "fake_run.py").write_text(textwrap.dedent(FAKE_RUN))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def loader(out: Path, *sets: str):
    def load(point):
        return load_config(None, environment={}, sets=[f"paths.out={out}", *sets], overrides=point)

    return load


def sweep(out: Path, *grid: str, tag: str | None = None, sets: tuple[str, ...] = ()):
    folder, points = prepare(parse_grid(grid), loader(out, *sets), tag)
    return folder, points


@pytest.fixture
def command(out, monkeypatch) -> list[str]:
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return [sys.executable, str(out.parent / "fake_run.py"), str(out)]


def test_every_combination_is_one_config_in_order(out) -> None:
    folder, points = sweep(out, "stacker.epochs=1,2", "level1.models=[knn],[knn, mlp]")
    assert [point.values for point in points] == [
        {"stacker.epochs": e, "level1.models": m} for e in (1, 2) for m in (["knn"], ["knn", "mlp"])
    ]
    assert json.loads((folder / "point-003.json").read_bytes()) == {
        "stacker": {"epochs": 2},
        "level1": {"models": ["knn", "mlp"]},
    }
    resolved = loader(out)(points[3].file)
    assert (resolved.config.stacker.epochs, resolved.run_id) == (2, points[3].run_id)
    assert len({point.run_id for point in points}) == 4
    assert folder.parent == out / "sweeps"


def test_points_win_over_set_and_share_no_named_run(out) -> None:
    _, points = sweep(out, "stacker.epochs=1,2", sets=("stacker.epochs=5", "run_id=mine"))
    assert [point.run_id for point in points] == ["mine-000", "mine-001"]
    assert [loader(out, "stacker.epochs=5")(point.file).config.stacker.epochs for point in points] == [1, 2]


def test_a_failing_point_does_not_stop_the_others_and_the_table_is_of_validation(out, command) -> None:
    folder, points = sweep(out, "stacker.epochs=1,2", "stacker.layers=1,9")
    results = run_all(folder, points, command, out)
    assert [result.exit_code for result in results] == [0, 75, 0, 75]
    assert (folder / "results.tsv").read_text() == table(results)
    rows = [line.split("\t") for line in table(results).splitlines()]
    assert rows[0] == ["stacker.epochs", "stacker.layers", "fmax_w/MF", "fmax_w/BP", "fmax_w/CC", "run_id", "exit_code"]
    assert rows[1][:5] == ["1", "1", "0.1000", "", ""]
    assert rows[2][2:5] == ["", "", ""]
    assert rows[3][:3] == ["2", "1", "0.2000"]
    assert json.loads((folder / "results.json").read_bytes()) == [result.to_json() for result in results]


def test_a_signal_stops_the_sweep_and_the_same_command_goes_on(out, command) -> None:
    grid = ("stacker.layers=1,8,2",)
    folder, points = sweep(out, *grid)
    assert [r.exit_code for r in run_all(folder, points, command, out)] == [0, 130]
    again, same = sweep(out, *grid)
    assert (again, same) == (folder, points)


def test_another_grid_needs_another_tag(out) -> None:
    first, _ = sweep(out, "stacker.epochs=1,2", tag="mine")
    assert first.name == "mine"
    sweep(out, "stacker.epochs=1,2", tag="mine")
    with pytest.raises(UsageError, match="another sweep"):
        sweep(out, "stacker.epochs=1,3", tag="mine")
    with pytest.raises(UsageError, match="another sweep"):
        sweep(out, "stacker.epochs=1,2", tag="mine", sets=("stacker.layers=1",))
    for wrong in ("../x", "", "a/b"):
        with pytest.raises(UsageError, match="--tag"):
            sweep(out, "stacker.epochs=1", tag=wrong)


@pytest.mark.parametrize("grid", [[], ["a"], ["a="], ["=1"], ["a=1", "a=2"], ["a=["]])
def test_a_broken_grid_is_refused(grid) -> None:
    with pytest.raises(UsageError):
        parse_grid(grid)


def test_every_point_is_checked_before_any_is_run(out) -> None:
    with pytest.raises(ConfigError, match=r"stacker\.epoch"):
        sweep(out, "stacker.epoch=1,2")
    with pytest.raises(ConfigError, match="epochs"):
        sweep(out, "stacker.epochs=1,-2")
    with pytest.raises(UsageError, match="same run"):
        sweep(out, "device=cpu,auto")
    with pytest.raises(UsageError, match="same run"):
        sweep(out, "stacker.epochs=1,1")


def test_the_verb_plans_without_running(out, capsys) -> None:
    arguments = ["sweep", "--set", f"paths.out={out}", "--grid", "stacker.epochs=1,2", "--dry-run", "--json"]
    assert main(build_parser(), arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert [point["values"] for point in found["points"]] == [{"stacker.epochs": 1}, {"stacker.epochs": 2}]
    assert found["results"] == []
    assert not list(out.glob("run-*"))
    assert main(build_parser(), ["sweep", "--set", f"paths.out={out}"]) == 64


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_real_sweep_is_killed_resumed_and_repeats_nothing(tmp_path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "services.train", "sweep", "--config", "configs/smoke.yaml", "--json"]
    command += ["--set", f"paths.out={out}", "--set", "level1.models=[knn]", "--grid", "stacker.epochs=0,1"]
    first = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not list(out.glob("sweeps/*/results.json")) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait() == 143
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout)["results"]
    assert [r["values"] for r in results] == [{"stacker.epochs": 0}, {"stacker.epochs": 1}]
    for result in results:
        assert result["metrics"] == json.loads((out / result["run_id"] / "metrics.json").read_bytes())["val"]["gcn"]
    # The second point differs in the stacker only: what comes before it is restored from the store.
    log = (out / results[1]["run_id"] / "logs/run.jsonl").read_text()
    assert "stage_07_level1_preds: restored" in log or "stage_07_level1_preds: up to date" in log
    log = (out / results[0]["run_id"] / "logs/run.jsonl").read_text()
    assert "stage_08_stacker: up to date" in log
