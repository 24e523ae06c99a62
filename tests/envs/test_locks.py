from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from shared import env

REPOSITORY = Path(__file__).resolve().parents[2]
ENVS = REPOSITORY / "envs"
_BOTH = ("torch", "transformers", "fair-esm", "captum", "numpy", "pandas", "pyarrow", "httpx", "pydantic")
# The packages that the project is promised to be made of, in the environment that uses each.
CARD = {"train": (*_BOTH, "kaggle"), "xai": (*_BOTH, "fastapi", "uvicorn"), "dev": ("pytest",)}
IMPORTS = {"fair-esm": "esm", "scikit-learn": "sklearn"}


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ENVS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copied(tmp_path):
    envs = tmp_path / "envs"
    shutil.copytree(ENVS, envs)
    shutil.copy(REPOSITORY / "compose.yaml", tmp_path)
    return envs


def test_the_locks_match_their_inputs() -> None:
    assert load("locks_check").problems(ENVS) == []


def test_a_plain_compose_build_hands_over_the_present_locks_hash(copied) -> None:
    check = load("locks_check")
    lock = copied / "xai.lock.yml"
    lock.write_text(lock.read_text() + "# solved again\n")
    assert [said for said in check.compose_problems(copied) if "XAI_LOCK_SHA256" in said]
    assert not [said for said in check.compose_problems(copied) if "TRAIN_LOCK_SHA256" in said]
    check.write_compose(copied)
    assert check.compose_problems(copied) == []


@pytest.mark.parametrize(
    ("file", "addition", "said"),
    [
        ("train.yml", "  - not-locked\n", "train.lock.yml is older than its input train.yml"),
        ("pip/xai.in", "not-pinned\n", "asks for not-pinned, which is not pinned"),
        ("xai.lock.yml", "# by hand\n", "xai.lock.yml was edited by hand"),
    ],
)
def test_a_changed_input_or_lock_is_named(copied, file, addition, said) -> None:
    path = copied / file
    path.write_text(path.read_text() + addition)
    assert any(said in line for line in load("locks_check").problems(copied))


def test_a_lock_that_is_not_closed_is_named(copied) -> None:
    check = load("locks_check")
    path = copied / "train.lock.yml"
    assert "\n- name: openblas" in path.read_text() or "\n- name: libblas" in path.read_text()
    path.write_text(path.read_text().replace("\n- name: libblas", "\n- name: renamed", 1))
    assert any("needs libblas" in line for line in check.conda_problems(copied, "train.lock.yml"))


@pytest.mark.parametrize("name", ["train", "xai"])
def test_conda_and_pip_parts_of_an_environment_fit_each_other(name) -> None:
    """Every requirement of what pip adds is met by the versions of both parts; metadata of this environment."""
    lock = env.locked_conda(ENVS / f"{name}.lock.yml")
    versions = {
        env.normalise(env.CONDA_TO_DISTRIBUTION.get(key, key)): package.version for key, package in lock.items()
    }
    pip = {
        key: version
        for key, version in env.locked_distributions(ENVS / f"pip/{name}.txt").items()
        if key not in versions
    }
    versions |= pip
    checked, wrong = 0, []
    for key, version in pip.items():
        if env.installed_version(key) != version:
            continue
        for text in importlib.metadata.requires(key) or []:
            wanted = Requirement(text)
            if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
                continue
            have = versions.get(env.normalise(wanted.name))
            checked += 1
            if have is None or not wanted.specifier.contains(have, prereleases=True):
                wrong.append(f"{key} {version} needs {wanted}, has {have}")
    assert wrong == []
    assert checked > 50


def test_the_card_names_thirteen_packages() -> None:
    assert len(set().union(*CARD.values())) == 13


@pytest.mark.parametrize("name", sorted(CARD))
def test_the_packages_of_the_card_are_locked_and_can_be_imported(name) -> None:
    pinned = env.locked_distributions(ENVS / f"pip/{name}.txt")
    assert [package for package in CARD[name] if package != "torch" and package not in pinned] == []
    # A process of its own, because what these packages do on import must not reach the other tests.
    modules = [IMPORTS.get(package, package) for package in CARD[name]]
    code = f"import importlib; print([importlib.import_module(m).__name__ for m in {modules!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == repr(modules)


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [("train", "train"), ("train", "dev"), ("xai", "xai"), ("train-cuda", "train"), ("xai-cuda", "xai")],
)
def test_conda_and_pip_together_install_every_pin(lock, requirements, capsys) -> None:
    """What env.differences expects under strict policy is what setup.sh and the images install."""
    conda = {
        env.normalise(env.CONDA_TO_DISTRIBUTION.get(key, key)) for key in env.locked_conda(ENVS / f"{lock}.lock.yml")
    }
    pip = ENVS / f"pip/{requirements}.txt"
    load("missing").main(str(ENVS / f"{lock}.lock.yml"), str(pip))
    added = set(re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==", capsys.readouterr().out, re.MULTILINE))
    assert {env.normalise(key) for key in added} == env.locked_distributions(pip).keys() - conda


def test_requirements_that_pip_adds_to_a_conda_environment(tmp_path, capsys) -> None:
    load("missing").main(str(ENVS / "train.lock.yml"), str(ENVS / "pip/train.txt"))
    said = capsys.readouterr().out
    assert "\nkaggle==2.2.4" in said
    assert "\ncaptum==" in said
    assert "\nnumpy==" not in said
    assert sys.version_info[:2] == (3, 11)
