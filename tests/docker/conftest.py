"""A real Docker Engine, and the two images built once for all tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from tests.docker.stack import BASE, REPOSITORY, Stack, docker


def no_engine() -> str | None:
    """The reason where no engine answers; these tests start none."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    done = docker("info", check=False)
    return f"no Docker Engine answers: {done.stderr.strip()[-300:]}" if done.returncode else None


@pytest.fixture(scope="session")
def engine() -> None:
    if reason := no_engine():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def images(engine) -> dict[str, str]:
    """Both images, from the packages of the environment that runs the tests; the variables that build them."""
    local = docker("image", "inspect", BASE, check=False).returncode == 0
    variables = {"LOCAL_ENV": "1", "RUNTIME_IMAGE": BASE if local else "python:3.11-slim-bookworm"}
    if not local:
        variables["GOWHY_PULL_POLICY"] = "missing"
    if os.environ.get("GOWHY_TEST_IMAGES") == "built":  # while working on the tests themselves
        return variables
    for command in (["envs/env-image.sh"], ["envs/compose.sh", "build"]):
        done = subprocess.run(
            ["bash", *command], cwd=REPOSITORY, env=os.environ | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return variables


@pytest.fixture
def stack(images, tmp_path):
    """A compose project of its own: volume, token, queue, port; torn down after the test."""
    made = Stack(f"gowhy-test-{uuid.uuid4().hex[:8]}", tmp_path, images)
    yield made
    made.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
