"""envs/setup.sh and envs/half.sh where a conda tool is present, against stand-ins of the tool and of pip.

The channel cannot be reached in a test. The stand-in takes the real command lines, reads the real lock by its own
parser, and leaves a prefix with python and conda-meta, as the real tools do.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from shared import env

REPOSITORY = Path(__file__).resolve().parents[2]

TOOL = """#!{python}
import json, pathlib, re, subprocess, sys, sysconfig
import yaml

arguments = sys.argv[1:]
log = pathlib.Path({log!r})
log.open("a").write(json.dumps(arguments) + "\\n")
assert arguments[:2] == ["create", "-y"] and arguments[2] == "-p", arguments
prefix, option, source = pathlib.Path(arguments[3]), arguments[4], pathlib.Path(arguments[5])
if prefix.exists() and not (prefix / "conda-meta").is_dir():
    sys.exit(f"error: non-conda folder exists at prefix {{prefix}}")
if "{tool}" == "micromamba":
    assert option == "-f" and source.name.endswith("-lock.yml"), arguments
    urls = [
        (p["url"], p["hash"]["sha256"])
        for p in yaml.load(source.read_text(), yaml.CSafeLoader)["package"]
        if p["platform"] == "linux-64" and p["category"] == "main"
    ]
else:
    lines = source.read_text().splitlines()
    assert option == "--file" and lines[0] == "@EXPLICIT", arguments
    assert all(re.fullmatch(r"https://\\S+[.](conda|tar[.]bz2)#[0-9a-f]{{32}}", line) for line in lines[1:]), lines
    urls = [(line.partition("#")[0], None) for line in lines[1:]]
subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
meta = prefix / "conda-meta"
meta.mkdir()
for url, sha256 in urls:
    name, version, build = re.sub(r"[.](conda|tar[.]bz2)$", "", url.rsplit("/", 1)[1]).rsplit("-", 2)
    record = {{"name": name, "version": version, "build": build, "sha256": sha256}}
    (meta / f"{{name}}.json").write_text(json.dumps(record))
site = next((prefix / "lib").glob("python*/site-packages"))
(site / "tests.pth").write_text({packages!r} + "\\n")
(site / "pip").mkdir()
(site / "pip" / "__init__.py").write_text("")
(site / "pip" / "__main__.py").write_text(
    "import json, pathlib, sys\\n"
    "assert '--require-hashes' in sys.argv and '--no-deps' in sys.argv, sys.argv\\n"
    "lines = pathlib.Path(sys.argv[-1]).read_text()\\n"
    "pathlib.Path({log!r}).open('a').write(json.dumps(['pip', lines]) + '\\\\n')\\n"
)
"""


class Checkout:
    """A copy of what set-up needs, with one conda tool on its PATH."""

    def __init__(self, folder: Path, tool: str) -> None:
        self.root = folder / "checkout"
        self.root.mkdir()
        shutil.copytree(REPOSITORY / "envs", self.root / "envs")
        shutil.copytree(REPOSITORY / "shared", self.root / "shared", ignore=shutil.ignore_patterns("__pycache__"))
        self.log = folder / "calls.jsonl"
        programs = folder / "bin"
        programs.mkdir()
        stand_in = programs / tool
        stand_in.write_text(
            TOOL.format(python=sys.executable, log=str(self.log), tool=tool, packages=sysconfig.get_path("purelib"))
        )
        stand_in.chmod(0o755)
        # The machine's own conda, if there is one, must not answer.
        for name in ("bash", "mkdir", "cp", "rm", "ln", "dirname", "cat", "env"):
            (programs / name).symlink_to(shutil.which(name))
        self.environment = {"PATH": str(programs), "PYTHON": sys.executable, "HOME": str(folder)}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False)

    def setup(self, *arguments: str) -> str:
        done = self.run("bash", "envs/setup.sh", *arguments)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture(params=["micromamba", "conda"])
def checkout(request, tmp_path) -> Checkout:
    return Checkout(tmp_path, request.param)


def test_the_development_environment_comes_from_the_conda_lock_once(checkout) -> None:
    said = checkout.setup()
    assert (checkout.root / ".venv").resolve() == checkout.root / ".conda/gowhy-dev"
    create, pip = checkout.calls()
    assert create[:4] == ["create", "-y", "-p", ".conda/gowhy-dev"]
    locked = {
        env.normalise(env.CONDA_TO_DISTRIBUTION.get(name, name))
        for name in env.locked_conda(checkout.root / "envs/train.lock.yml")
    }
    pinned = env.locked_distributions(checkout.root / "envs/pip/dev.txt")
    added = {env.normalise(name) for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", pip[1], re.MULTILINE)}
    assert added == pinned.keys() - locked
    assert "--hash=sha256:" in pip[1]
    assert "lock train" in said

    checkout.setup()
    assert len(checkout.calls()) == 2, "a second set-up made the environment again"


def test_a_changed_lock_is_seen_by_the_policy_and_mended_by_set_up(checkout) -> None:
    checkout.setup("xai")
    python = str(checkout.root / ".conda/gowhy-xai/bin/python")
    # What pip would have added is the test environment's own; what conda installed must be the lock to the build.
    before = checkout.run(python, "-m", "shared.env", "check", "--env-policy", "warn", "--json")
    assert before.returncode == 0, before.stderr[-2000:]
    assert not [item for item in json.loads(before.stdout)["differences"] if "=" in item["locked"]]
    lock = checkout.root / "envs/xai.lock.yml"
    lock.write_text(lock.read_text() + "# edited\n")
    after = checkout.run(python, "-m", "shared.env", "check", "--env-policy", "strict")
    assert after.returncode == 79
    assert "xai.lock.yml changed since this environment was made" in after.stderr
    checkout.setup("xai")
    assert len(checkout.calls()) == 4
    again = checkout.run(python, "-m", "shared.env", "check", "--env-policy", "strict")
    assert "changed since" not in again.stderr


def test_an_interrupted_set_up_is_begun_again(checkout) -> None:
    left = checkout.root / ".conda/gowhy-train/lib"
    left.mkdir(parents=True)
    (left / "half.so").write_bytes(b"half")
    checkout.setup("train")
    assert not (left / "half.so").exists()
    assert (checkout.root / ".conda/gowhy-train/conda-meta").is_dir()


@pytest.mark.parametrize("half", ["train", "xai"])
def test_each_half_runs_in_its_own_environment(checkout, half) -> None:
    done = checkout.run("bash", "envs/half.sh", half, "-c", "import sys; print(sys.prefix)")
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(done.stdout.strip()) == checkout.root / f".conda/gowhy-{half}"


def test_conda_is_left_alone_when_told_so(checkout) -> None:
    (checkout.root / ".venv/bin").mkdir(parents=True)
    (checkout.root / ".venv/bin/python").symlink_to(sys.executable)
    checkout.environment["GOWHY_NO_CONDA"] = "1"
    done = checkout.run("bash", "envs/half.sh", "train", "-c", "print('ran')")
    assert done.stdout.strip() == "ran", done.stderr[-2000:]
    assert checkout.calls() == []
