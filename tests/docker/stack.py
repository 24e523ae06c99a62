"""One compose project that a test may start, kill and read."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = "local/debian:bookworm"
ACCOUNT = 10001
TOKEN = "a-token-for-container-tests"


def docker(*arguments: str, check: bool = True, timeout: float = 540) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout)
    assert not check or done.returncode == 0, done.stderr
    return done


class Stack:
    """compose.yaml with its own volume, token, queue and port, on the smoke data."""

    def __init__(self, name: str, folder: Path, images: dict[str, str]) -> None:
        self.name, self.folder, self.out = name, folder, folder / "out"
        self.out.mkdir()
        self.give(self.out)
        self.token = folder / "token"
        self.token.write_text(TOKEN)
        self.environment = os.environ | images | {
            "COMPOSE_PROJECT_NAME": name,
            "COMPOSE_ANSI": "never",
            "GOWHY_OUT": str(self.out),
            "GOWHY_PORT": "0",
            "GOWHY_CONFIG": "configs/smoke.yaml",
            "GOWHY_TOKEN_FILE": str(self.token),
        }  # fmt: skip

    @staticmethod
    def give(folder: Path) -> None:
        """Let the containers' account write there."""
        try:
            os.chown(folder, ACCOUNT, ACCOUNT)
        except PermissionError:
            folder.chmod(0o777)

    def compose(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "envs/compose.sh", *arguments], cwd=REPOSITORY, env=self.environment | environment,
            capture_output=True, text=True, check=False, timeout=540,
        )  # fmt: skip
        assert not check or done.returncode == 0, (done.stdout + done.stderr + self.logs())[-6000:]
        return done

    def logs(self) -> str:
        """What the containers said, for a failure's message."""
        done = self.compose("logs", "--no-color", "--tail", "40", check=False)
        return done.stdout + done.stderr

    def up(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """`docker compose up` to the end of the chain, with the exit code of the hand-over."""
        started = self.compose("up", "--no-build", "--detach", check=False, **environment)
        return started if started.returncode else self.compose("finish", check=False, **environment)

    def container(self, service: str) -> str:
        """Id of the service's newest container; empty when there is none."""
        return self.compose("ps", "--all", "--quiet", service).stdout.strip().partition("\n")[0]

    def inspect(self, service: str) -> dict[str, Any]:
        return json.loads(docker("inspect", self.container(service)).stdout)[0]

    def wait(self, what, timeout_s: float = 240) -> None:
        """Until `what()` is true."""
        end = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < end, self.compose("logs", "--no-color").stdout[-4000:]
            time.sleep(0.2)

    def manifest(self) -> dict[str, Any]:
        return json.loads((self.out / "latest/manifest.json").read_text())

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.out.glob("smoke-*/xai/*/result.json"))]
