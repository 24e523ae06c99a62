"""Several processes make the numbers of one, and end together."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from fakes import team_fit
from pipeline_runs import REPOSITORY, torchrun_command

from services.train import cli
from services.train.processes import assembled, device_of
from services.train.team import ALONE, started_by_torchrun
from shared.errors import ConfigError, IntegrityError, MissingInput, UsageError

STARTED = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
PATIENCE_S = 240  # processes that wait for each other in vain would wait for days


def fit(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`tests.fakes.team_fit` on two processes."""
    return subprocess.run(
        [*torchrun_command(2), "-m", "tests.fakes.team_fit", str(out), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_two_processes_fit_what_one_does_and_find_weights_that_part(tmp_path: Path) -> None:
    one = team_fit.fits(ALONE, [2, 4])
    done = fit(tmp_path / "two.npz", "2", "4", "--end", "spoil:1")
    with np.load(tmp_path / "two.npz") as arrays:
        two = dict(arrays)
    assert one.keys() == two.keys()
    # Two summands: their order does not matter, to the last bit.
    differing = [name for name in one if name.startswith("2/") and not np.array_equal(one[name], two[name])]
    assert not differing
    # ((a + b) + c) + d is not (a + c) + (b + d).
    for name in (name for name in one if name.startswith("4/")):
        np.testing.assert_allclose(one[name], two[name], atol=1e-6, err_msg=name)
    assert not np.array_equal(one["2/head.weight"], one["4/head.weight"])
    # The last fit: a millionth on one weight of one process.
    assert done.returncode != 0
    assert "process 1 ended the fit of toy with other weights" in done.stderr
    assert f"exitcode  : {IntegrityError.exit_code}" in done.stderr


@pytest.mark.parametrize("end", ["kill:1", "fail:0"])
def test_a_process_that_ends_takes_the_others_with_it(tmp_path: Path, end: str) -> None:
    done = fit(tmp_path / "out.npz", "2", "--end", end)  # a wait without end would be a timeout
    assert done.returncode != 0
    assert "asked to fail" in done.stderr or end.startswith("kill")


def test_where_torchrun_is_killed_nobody_stays(tmp_path: Path) -> None:
    command = [*torchrun_command(2), "-m", "tests.fakes.team_fit", str(tmp_path / "out.npz"), "2", "--end", "sleep:1"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as torchrun:
        assert torchrun.stdout is not None
        assert torchrun.stdout.readline() == b"asleep\n"
        workers = psutil.Process(torchrun.pid).children()
        assert len(workers) == 2
        torchrun.kill()
        assert psutil.wait_procs(workers, timeout=PATIENCE_S)[1] == []


def test_batches_that_cannot_be_dealt_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match="accumulate=4, or start another number"), assembled("cpu", 3, STARTED):
        pass


def test_one_process_is_a_team_without_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with assembled("cpu", 1, {}) as (team, device):
        assert team is ALONE
        assert device.type == "cpu"
    with pytest.raises(MissingInput, match="Accelerate is not installed"), assembled("cpu", 2, STARTED):
        pass


def test_only_torchrun_starts_several() -> None:
    assert started_by_torchrun(STARTED) == 2
    assert started_by_torchrun({"WORLD_SIZE": "2"}) == 1


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [str(device_of("auto", local)) for local in (0, 1)] == ["cuda:0", "cuda:1"]
    assert str(device_of("cpu", 1)) == "cpu"
    with pytest.raises(MissingInput, match="2 GPUs, and process 3"):
        device_of("cuda", 2)
    with pytest.raises(ConfigError, match="cuda:1 is one GPU"):
        device_of("cuda:1", 0)


@pytest.mark.parametrize("verb", [["status"], ["run", "--dry-run"], ["store", "status"]])
def test_other_verbs_are_for_one_process(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in STARTED.items():
        monkeypatch.setenv(name, value)
    assert cli.main(verb) == UsageError.exit_code
    assert "is for one" in capsys.readouterr().err
