"""Containers killed at random moments: `docker compose up` again finishes the job. Minutes each, so only when asked for."""

from __future__ import annotations

import os
import random
import subprocess
import time

import pytest

from tests.docker.stack import REPOSITORY, Stack, docker

KILLS = int(os.environ.get("GOWHY_COMPOSE_KILLS", "0"))
SEED = int(os.environ.get("GOWHY_CHAOS_SEED", "1"))
LATEST_S = 45  # about what the smoke data take from the first container to the report

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(KILLS == 0, reason="make compose-test KILLS=n kills n times; minutes"),
]


def begin(stack: Stack) -> subprocess.Popen[bytes]:
    """`up` in the background: it returns only when train has ended."""
    return subprocess.Popen(
        ["bash", "envs/compose.sh", "up", "--no-build", "--detach"], cwd=REPOSITORY, env=stack.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def running(stack: Stack) -> list[str]:
    return [
        service
        for service in ("train", "xai-worker")
        if stack.container(service) and stack.inspect(service)["State"]["Running"]
    ]


def test_containers_killed_at_random_moments_finish_when_started_again(stack) -> None:
    generator = random.Random(SEED)
    stack.environment["COMPOSE_OVERRIDES"] = "tests/docker/quick.yaml"
    killed: list[str] = []
    while len(killed) < KILLS:
        up = begin(stack)
        time.sleep(generator.uniform(1, LATEST_S))
        alive = running(stack)
        # train is the shorter life: once it has ended, only the worker is there to kill.
        if alive:
            service = generator.choice(alive)
            docker("kill", stack.container(service), check=False)  # it may have ended in between
            stages = len(list(stack.out.glob("smoke-*/.checkpoints/*.json"))) if stack.out.exists() else 0
            killed.append(f"{service} after {stages} stages, {len(stack.results())} results")
        up.wait(timeout=540)
    done = stack.up()
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert stack.manifest()["status"] == "complete"
    assert [result["status"] for result in stack.results()] == ["complete"]
    print("killed: " + "; ".join(killed))
