"""The smoke run under torchrun: the bytes of one process, through kills of either process, and resumed by one or two."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest
from pipeline_runs import output_digests, run, start, torchrun_command, train_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# Batches small enough that both processes have some of every model.
SHARED = ("--set", "threads=1", "--set", "level1.training.accumulate=2", "--set", "level1.mlp.batch_size=16", "--quiet")
PATIENCE_S = 300


def several(out: Path) -> list[str]:
    """The same command under torchrun."""
    _interpreter, *module = train_command(out, *SHARED)
    return [*torchrun_command(2), *module]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of what one process writes."""
    out = tmp_path_factory.mktemp("one")
    done = run(train_command(out, *SHARED))
    assert done.returncode == 0, done.stderr[-4000:]
    return output_digests(out / "smoke/manifest.json")


def test_two_processes_write_the_bytes_of_one(tmp_path: Path, expected: dict[str, str]) -> None:
    done = run(several(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    assert output_digests(tmp_path / "smoke/manifest.json") == expected


def test_a_killed_process_ends_the_run_and_two_or_one_resume_it(tmp_path: Path, expected: dict[str, str]) -> None:
    for rank, model in ((1, "mlp"), (0, "stacker")):
        torchrun = start(several(tmp_path))
        wait_for_an_epoch(torchrun, tmp_path / "smoke", model)
        workers = workers_of(torchrun)
        assert sorted(workers) == [0, 1]
        workers[rank].kill()
        assert torchrun.wait(PATIENCE_S) != 0
        assert psutil.wait_procs(workers.values(), timeout=PATIENCE_S)[1] == []
        assert not (tmp_path / "latest").exists()
    final = run(train_command(tmp_path, *SHARED))
    assert final.returncode == 0, final.stderr[-4000:]
    assert output_digests(tmp_path / "smoke/manifest.json") == expected


def wait_for_an_epoch(process: subprocess.Popen[bytes], run_folder: Path, model: str) -> None:
    """Until a fit of the model is under way."""
    log = run_folder / "logs/epochs.csv"
    end = time.monotonic() + PATIENCE_S
    while not (log.is_file() and f",{model}" in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)


def workers_of(process: subprocess.Popen[bytes]) -> dict[int, psutil.Process]:
    """Rank -> process."""
    return {
        int(child.environ()["RANK"]): child
        for child in psutil.Process(process.pid).children()
        if "RANK" in child.environ()
    }
