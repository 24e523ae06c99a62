"""What `make bench-scale` counts, and what it calls a miss."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_scale import estimate, exponents, family, judged, memory, overheard, table

FEW = {"cpu_seconds": 1.0, "before_mb": 300.0, "held_mb": 310.0, "resident_mb": 500.0, "disk_mb": 1.0, "silence": 2.0}
MANY = {
    "cpu_seconds": 100.0,
    "before_mb": 300.0,
    "held_mb": 400.0,
    "resident_mb": 9000.0,
    "disk_mb": 10.0,
    "silence": 61.0,
}


def test_exponents_are_slopes_between_neighbouring_sizes() -> None:
    sizes = {"1000": {"stage_01_parsed": FEW}, "10000": {"stage_01_parsed": MANY}, "100000": {"stage_01_parsed": MANY}}
    assert exponents(sizes) == {
        "1000-10000": {"stage_01_parsed": {"seconds": 2.0, "memory": 1.0, "disk": 1.0}},
        "10000-100000": {"stage_01_parsed": {"seconds": 0.0, "memory": 0.0, "disk": 0.0}},
    }


def test_an_estimate_takes_the_last_exponents() -> None:
    sizes = {"1000": {"stage_01_parsed": FEW}, "10000": {"stage_01_parsed": MANY}}
    said = estimate({"sizes": sizes, "exponents": exponents(sizes)}, 100_000)
    # A hundredfold in time and tenfold in all else, from 100 s, 100 MB and 10 MB.
    assert "| stage_01_parsed | 2.8 | 1.0 | 0 |" in said


def test_too_much_memory_and_silence_are_misses() -> None:
    sizes = {"1000": {"stage_01_parsed": FEW}, "10000": {"stage_01_parsed": MANY}}
    document = {"settings": {"limit_gb": 8.0}, "sizes": sizes, "exponents": exponents(sizes)}
    assert [gate.holds for gate in judged(document)] == [True, True, False, False]
    assert table(document).count("FAIL") == 1


def test_a_stage_is_heard_and_its_silence_timed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = """import sys, time; print('one', file=sys.stderr, flush=True); time.sleep(0.5); print('{"cpu": 1}')"""
    found, silence = overheard([sys.executable, "-c", code], dict(os.environ), tmp_path / "log")
    assert found == {"cpu": 1}
    assert silence >= 0.5
    assert (tmp_path / "log").read_text().endswith(" one\n")
    assert "one" in capfd.readouterr().err
    with pytest.raises(SystemExit, match="ended with 3"):
        overheard([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ), tmp_path / "log")


def test_memory_is_that_of_a_process_and_its_children() -> None:
    code = "import time; held = bytearray(64 << 20); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert child.pid in family(os.getpid())
        assert 64 <= memory(child.pid)["RssAnon"] <= memory(child.pid)["VmRSS"]
        child.kill()
    assert memory(child.pid)["VmRSS"] == 0


def test_more_data_than_the_limit_is_refused() -> None:
    code = """
import json, resource
from benchmarks import bench_scale
bench_scale.measure_stages = lambda config, names: {"bytes": len(bytearray(1 << 30))}
bench_scale.main(["--limit-gb", "0.9", "--stage", "config", "stage"])
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "MemoryError" in done.stderr
