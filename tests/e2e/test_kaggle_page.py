"""docs/kaggle.md, step by step: every code block is run, in order, against a Kaggle stand-in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes.kaggle_stub import KEY, USER, KaggleStub, environment
from pipeline_runs import REPOSITORY

pytestmark = [pytest.mark.stores, pytest.mark.slow, pytest.mark.timeout(2400)]
BLOCK = re.compile(r"^```(python|bash)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECRETS = f"""
class UserSecretsClient:
    def get_secret(self, name):
        return {{"KAGGLE_USERNAME": "{USER}", "KAGGLE_KEY": "{KEY}"}}[name]
"""


def test_every_step_of_the_page_works(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/kaggle.md").read_text()
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/kaggle_secrets.py").write_text(SECRETS)
    for name in ("services", "shared", "configs", "envs"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    setup, outputs = "", {}
    with KaggleStub(processing=0.1) as stub:
        variables = environment(stub, tmp_path / "home")
        for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
            variables.pop(name)  # the page's own step provides them
        for language, condition, code in BLOCK.findall(page):
            if condition == "fresh":
                shutil.rmtree(tmp_path / "out")
            if condition == "offline":
                shutil.rmtree(tmp_path / "out/demo")
            if language == "python":
                setup += code
                script = setup
            else:
                # A notebook's `!command` sees the variables that cells have set.
                lines = [line for line in code.strip().splitlines() if line]
                cell = setup.split("from pathlib")[0]
                script = (
                    cell
                    + "import subprocess\n"
                    + "".join(f"subprocess.run({line.split()!r}, check=True)\n" for line in lines)
                )
                script = script.replace("'python'", repr(sys.executable))
            here = dict(os.environ, **variables, PYTHONPATH=f"{tmp_path}:{tmp_path / 'modules'}")
            if condition == "offline":
                here["http_proxy"] = "http://127.0.0.1:9"  # nobody answers
            done = subprocess.run(
                [sys.executable, "-c", script], cwd=tmp_path, env=here, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            outputs[code.strip().splitlines()[0] + (condition or "")] = done
        dataset = stub.dataset("gowhy-demo-core-checkpoints")
        # nine stages, and the attached snapshot with every artefact as a plain file
        assert len(dataset.versions) == 10
        manifest = json.loads(dataset.current.files["MANIFEST.json"].path.read_bytes())
        assert {f"files/{path}" for path in manifest["files"]} <= {*dataset.current.files, "files/"}
    resumed = next(done for name, done in outputs.items() if name.endswith("fresh"))
    assert resumed.stderr.count("restored from kaggle://tester/gowhy-demo") == 9
    offline = next(done for name, done in outputs.items() if name.endswith("offline"))
    assert offline.stderr.count("up to date, skipped") == 9
    assert (tmp_path / "out/looked-at/parsed/train_seq.feather").is_file()
