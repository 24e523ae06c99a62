"""Runs of the real command line in a scratch folder, for end-to-end and chaos tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SMOKE = REPOSITORY / "configs" / "smoke.yaml"


def train_command(out: Path, *arguments: str) -> list[str]:
    """`python -m services.train run` on the smoke config, with everything under `out`."""
    return [
        sys.executable,
        "-m",
        "services.train",
        "run",
        "--config",
        str(SMOKE),
        "--set",
        f"paths.out={out}",
        "--set",
        "run_id=smoke",
        *arguments,
    ]


def torchrun_command(processes: int) -> list[str]:
    """`torchrun` on this machine's loopback, on a free port; `-m MODULE ...` follows."""
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    return ["env", "GLOO_SOCKET_IFNAME=lo", sys.executable, "-m", "torch.distributed.run", *options]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run to the end from the repository root."""
    return subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def start(command: list[str]) -> subprocess.Popen[bytes]:
    """Start in a session of its own, so that a kill reaches its children and nothing else."""
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def output_digests(manifest: Path) -> dict[str, str]:
    """Path -> sha256 of every stage output."""
    document = json.loads(manifest.read_bytes())
    return {output["path"]: output["sha256"] for stage in document["stages"] for output in stage["outputs"]}


def events(run_folder: Path) -> list[dict[str, object]]:
    """The run's log, without a torn last line."""
    found = []
    for line in (run_folder / "logs/run.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
