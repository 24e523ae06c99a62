"""Plans against what they scale: finished runs of known cost."""

from __future__ import annotations

import ctypes
import json
import mmap
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from services.train import planning
from services.train.cli import build_parser
from services.train.peak import peak_bytes, reset_peak, resident_bytes
from services.train.pipeline import PIPELINE
from shared.config import Config
from shared.config.embed import EncoderConfig
from shared.edge import main
from shared.errors import ConfigError, MissingInput

GIB = 1 << 30
REPOSITORY = Path(__file__).resolve().parents[3]


def run_of(proteins: int, *, memory: float | None = None, seconds: float = 10.0) -> planning.Measured:
    workload = planning.workload_of(Config(), train=proteins, test=proteins, residues=100)
    stages = [stage.id for stage in PIPELINE]
    peaks = {} if memory is None else dict.fromkeys(stages, memory)
    return planning.Measured(
        f"run{proteins}", workload, dict.fromkeys(stages, seconds), peaks, dict.fromkeys(stages, 1000)
    )


def test_every_stage_has_something_that_it_grows_with() -> None:
    assert set(planning.TIME) == set(planning.SPACE) == {stage.id for stage in PIPELINE}


def test_the_same_work_costs_the_same_and_tenfold_proteins_at_least_tenfold() -> None:
    run = run_of(100)
    for same, more in zip(
        planning.estimates(run.workload, [run]), planning.estimates(run_of(1000).workload, [run]), strict=True
    ):
        assert (same.seconds, same.disk) == (pytest.approx(10), pytest.approx(1000))
        assert more.seconds == pytest.approx(10 * 10**1.25 if more.stage == "stage_01_parsed" else 100)
        assert more.disk == pytest.approx(10_000)


def test_the_largest_run_is_scaled() -> None:
    found = planning.estimates(run_of(1000).workload, [run_of(10, seconds=9), run_of(500, seconds=7)])
    assert {e.source for e in found} == {"run500"}
    assert found[6].seconds == pytest.approx(14)


def test_memory_is_on_the_line_through_two_sizes_and_unknown_with_one() -> None:
    one, two = run_of(100, memory=1 * GIB), run_of(200, memory=2 * GIB)
    wanted = run_of(400).workload
    assert {e.memory for e in planning.estimates(wanted, [one])} == {None}
    assert "not estimated" in planning.table(wanted, planning.estimates(wanted, [one]))
    assert {e.memory for e in planning.estimates(wanted, [one, two])} == {4.0 * GIB}
    assert {e.memory for e in planning.estimates(one.workload, [one, two])} == {2.0 * GIB}  # never below what was seen


def test_an_encoder_that_no_run_has_used_is_estimated_from_its_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "matrix_rate", lambda: 1e9)
    run = run_of(100)
    large = replace(run.workload, esm2=planning.arithmetic(EncoderConfig(name="esm2_t33_650M")), esm2_dim=1280)
    found = planning.estimates(large, [run])[5]
    assert found.source == "matrix products"
    # 12 x 33 x 1280^2 multiply-adds: twice as many operations as 1.3 G per residue of a 650M encoder
    assert found.seconds == pytest.approx(12 * 33 * 1280**2 * run.workload.residues / (planning.ENCODERS_SHARE * 1e9))
    assert found.disk == pytest.approx(1000 * 1280 / 64)


def test_what_does_not_fit_is_refused() -> None:
    runs = [run_of(100, memory=1 * GIB), run_of(200, memory=2 * GIB)]
    found = planning.estimates(run_of(2000).workload, runs)
    planning.check(found, memory=64 * GIB, disk=GIB)
    with pytest.raises(ConfigError, match=r"would need about 20\.00 GiB of memory and this machine has 16\.00 GiB"):
        planning.check(found, memory=16 * GIB, disk=GIB)
    with pytest.raises(ConfigError, match="are free"):
        planning.check(found, memory=64 * GIB, disk=10)


def write_run(folder: Path, proteins: int, costs: str) -> None:
    (folder / "logs").mkdir(parents=True)
    (folder / "parsed").mkdir()
    (folder / "logs/costs.jsonl").write_text(costs)
    (folder / "config_resolved.json").write_text(Config().model_dump_json())
    (folder / "manifest.json").write_text(json.dumps({"stages": [{"id": PIPELINE[0].id, "outputs": [{"size": 5}]}]}))
    for part in ("train", "test"):
        pd.DataFrame({"id": [str(n) for n in range(proteins)], "sequence": ["ACDE"] * proteins}).to_feather(
            folder / f"parsed/{part}_seq.feather"
        )


def test_finished_runs_are_read_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    line = json.dumps({"stage": PIPELINE[0].id, "seconds": 2.5, "peak_bytes": 100})
    write_run(tmp_path / "b", 30, f'{line}\n{{"stage": "sta')
    write_run(tmp_path / "a", 7, line)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "latest").symlink_to("b")
    small, large = planning.measured_runs(tmp_path)
    assert (small.run_id, small.workload.train, small.workload.residues) == ("a", 7, 56)
    assert (large.seconds, large.memory, large.disk) == (
        {PIPELINE[0].id: 2.5},
        {PIPELINE[0].id: 100.0},
        {PIPELINE[0].id: 5},
    )


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", 7, json.dumps({"stage": PIPELINE[0].id, "seconds": 2.5, "peak_bytes": 100}))
    numbers = ["--train-proteins", "70", "--test-proteins", "70", "--mean-residues", "300"]
    options = ["--set", f"paths.out={tmp_path}", "--config", "configs/cafa6.yaml"]
    assert main(build_parser(), ["plan", *options, *numbers, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["workload"]["level1_terms"] == 13500
    assert planned["stages"][0]["seconds"] == pytest.approx(2.5 * 10**1.25)
    assert planned["stages"][1]["seconds"] is None
    demo = ["--set", f"paths.out={tmp_path}", "--config", "configs/demo.yaml"]
    assert main(build_parser(), ["plan", *demo, *numbers[:2]]) == 0
    assert "70 train and 96 test proteins" in capsys.readouterr().out
    empty = tmp_path / "empty"
    assert main(build_parser(), ["plan", "--set", f"paths.out={empty}", *numbers]) == MissingInput.exit_code
    assert "no finished run" in capsys.readouterr().err


def test_freed_memory_is_given_back() -> None:
    if resident_bytes() is None or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("the C library does not give back memory when asked, or the system does not tell")
    # In a process of its own: where an allocation lies follows from those before it.
    code = """
from services.train.peak import give_back, resident_bytes
blocks = [bytes(64 << 10) + b"x" for _ in range(2000)]  # smaller than what is mapped by itself
kept = blocks[-1]
del blocks
before = resident_bytes()
give_back()
print(before - resident_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert int(done.stdout) > 64 << 20


def test_the_peak_is_that_of_the_last_stretch() -> None:
    forgets, before = reset_peak(), peak_bytes()
    if not forgets or before is None:
        pytest.skip("the system does not tell a process's peak")
    # Pages of its own: an object might be given memory that an earlier test has returned.
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"x" * len(block))
        grown = peak_bytes()
        assert grown is not None
        assert grown >= before + len(block) // 2
    reset_peak()
    assert peak_bytes() < grown
