"""The whole pipeline against a Kaggle stand-in: killed, its disk gone, resumed on a fresh machine from the dataset alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from fakes.kaggle_stub import KaggleStub, environment
from pipeline_runs import REPOSITORY, output_digests, run, train_command

pytestmark = [pytest.mark.stores, pytest.mark.timeout(2400)]
STORE = ("--store", "kaggle://tester/resume")
CORE = "resume-core-checkpoints"


def pushed(stub: KaggleStub) -> dict[str, dict[str, str]]:
    """Stage -> path -> sha256, of the newest version in the stand-in."""
    dataset = stub.state.datasets.get(f"tester/{CORE}")
    if dataset is None or dataset.current is None:
        return {}
    manifest = json.loads(dataset.current.files["MANIFEST.json"].path.read_bytes())
    checkpoints = [entry["checkpoint"] for entry in manifest["entries"]]
    return {c["stage"]: {o["path"]: o["sha256"] for o in c["outputs"]} for c in checkpoints}


@pytest.mark.parametrize("split", ["auto", pytest.param("always", marks=pytest.mark.slow)])
def test_a_fresh_machine_recomputes_nothing_that_was_pushed(tmp_path: Path, split: str) -> None:
    options = (*STORE, "--set", f"store.split={split}")
    with KaggleStub(processing=0.2) as stub:
        first = environment(stub, tmp_path / "first/home")
        with (tmp_path / "first.log").open("wb") as log:
            process = subprocess.Popen(
                train_command(tmp_path / "first/out", *options),
                cwd=REPOSITORY,
                env={**os.environ, **first},
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        while len(pushed(stub)) < 6 and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)  # into the next stage
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before = pushed(stub)
        assert 6 <= len(before) < 9, (tmp_path / "first.log").read_text()[-3000:]
        shutil.rmtree(tmp_path / "first")

        second = environment(stub, tmp_path / "second/home")
        done = run(train_command(tmp_path / "second/out", *options, "--json", "--quiet"), **second)
        assert done.returncode == 0, done.stderr[-4000:]
        actions = {step["stage"]: step["action"] for step in json.loads(done.stdout)["steps"]}
        assert {stage for stage, action in actions.items() if action == "restore"} == set(before)
        assert set(actions.values()) == {"restore", "run"}
        made = output_digests(tmp_path / "second/out/smoke/manifest.json")
        assert {path: made[path] for outputs in before.values() for path in outputs} == {
            path: sha for outputs in before.values() for path, sha in outputs.items()
        }

        # One version per milestone and dataset; a run that changes nothing publishes none.
        assert len(stub.dataset(CORE).versions) == 9
        if split == "always":
            assert len(stub.dataset("resume-embeddings").versions) == 2
        again = run(train_command(tmp_path / "second/out", *options, "--json", "--quiet"), **second)
        assert {step["action"] for step in json.loads(again.stdout)["steps"]} == {"skip"}
        assert len(stub.dataset(CORE).versions) == 9
        assert all(dataset.private for dataset in stub.state.datasets.values())
        record = json.loads((tmp_path / "second/out/smoke/manifest.json").read_bytes())["store"]
        assert record["private"] is True
        assert record["datasets"]["core"] == {"id": f"tester/{CORE}", "version": "9"}
