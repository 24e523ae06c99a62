"""SIGKILL of a batch of explanations: it goes on with the next protein, and ends in the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from pipeline_runs import run, start

from shared.digests import sha256_file

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000)]
ASKED = int(os.environ.get("GOWHY_KILLS", "3"))
KILLS = min(3, ASKED)
SEED = int(os.environ.get("GOWHY_CHAOS_SEED", "1"))
PROTEINS = 12 if ASKED > 3 else 6


def command(run_folder: Path, wanted: Path) -> list[str]:
    return [
        sys.executable, "-m", "services.xai_worker", "explain", "--quiet", "--from-manifest",
        str(run_folder / "manifest.json"), "--proteins", str(wanted), "--top-k", "2", "--model", "cnn", "--model",
        "stacker", "--export", "gff3", "--jobs", "2",
    ]  # fmt: skip


def files_of(folder: Path) -> dict[str, str]:
    result = json.loads((folder / "result.json").read_bytes())
    for path, record in result["files"].items():
        assert sha256_file(folder / path) == record["sha256"]
    return {path: record["sha256"] for path, record in result["files"].items()}


def test_a_killed_batch_goes_on_and_ends_in_the_same_bytes(smoke_out: Path, tmp_path: Path) -> None:
    check(smoke_out / "smoke", tmp_path)


def check(run_folder: Path, work: Path) -> None:
    """Explain once undisturbed, once with kills."""
    wanted = work / "accessions.txt"
    ids = pd.read_feather(run_folder / "parsed/test_seq.feather")["id"].head(PROTEINS)
    wanted.write_text("\n".join(ids) + "\n")
    begun = time.monotonic()
    whole = run(command(run_folder, wanted))
    assert whole.returncode == 0, whole.stderr[-3000:]
    duration = time.monotonic() - begun
    folder = Path(whole.stdout.splitlines()[0])
    expected = files_of(folder)
    shutil.rmtree(folder)
    generator = random.Random(SEED)
    kept: list[int] = []
    for _ in range(KILLS):
        process = start(command(run_folder, wanted))
        time.sleep(generator.uniform(0.4, 0.6) * duration)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)  # the parent alone: its children must end by themselves
        process.wait()
        if (folder / "result.json").exists():
            break
        kept.append(len(list((folder.parent / f".{folder.name}.parts").glob("*.json"))))
    assert kept == sorted(kept), "a finished protein was lost"
    wait_until_nothing_runs(folder)
    final = run(command(run_folder, wanted))
    assert final.returncode == 0, final.stderr[-3000:]
    assert files_of(folder) == expected
    assert not list(folder.parent.glob(f".{folder.name}*"))
    resumed = [int(str(e["finished"])) for e in events_of(run_folder) if e["message"] == "resumed"]
    assert resumed == sorted(resumed)
    print(f"kills {len(kept)}, finished proteins kept {kept}, undisturbed {duration:.0f} s: every file identical")


def wait_until_nothing_runs(folder: Path) -> None:
    """Children of a killed parent end within seconds; until then they may still finish a protein."""
    parts = folder.parent / f".{folder.name}.parts"
    before = -1
    while (count := len(list(parts.glob("*.json"))) if parts.exists() else 0) != before:
        before = count
        time.sleep(3)


def events_of(run_folder: Path) -> list[dict[str, object]]:
    """The worker's log, without a torn last line."""
    lines = (run_folder / "logs/xai/run.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]
