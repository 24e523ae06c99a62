"""SIGKILL at random moments: the restarted run ends in the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from pipeline_runs import events, output_digests, run, start, train_command

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000)]
KILLS = int(os.environ.get("GOWHY_KILLS", "20"))
SEED = int(os.environ.get("GOWHY_CHAOS_SEED", "1"))


def finished_stages(run_folder: Path) -> Counter[str]:
    """How often each stage ran to its end."""
    return Counter(
        str(e["message"]).split("] ")[1].split(":")[0] for e in events(run_folder) if ": done in" in str(e["message"])
    )


def test_random_kills_change_no_byte_and_repeat_no_finished_stage(tmp_path) -> None:
    begun = time.monotonic()
    undisturbed = run(train_command(tmp_path / "a"))
    assert undisturbed.returncode == 0, undisturbed.stderr[-3000:]
    duration = time.monotonic() - begun
    expected = output_digests(tmp_path / "a/smoke/manifest.json")
    generator = random.Random(SEED)
    kills, runs = 0, 0
    while kills < KILLS:
        folder = tmp_path / f"b{runs}"
        # A run that is killed at moments up to its whole length ends after a few restarts; then the next one starts.
        while kills < KILLS and not (folder / "latest").exists():
            process = start(train_command(folder, "--quiet"))
            time.sleep(generator.uniform(0.1, duration))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
        check_ends_the_same(folder, expected)
        runs += 1
    print(
        f"kills {kills}, runs {runs}, undisturbed run {duration:.0f} s: every output identical, no finished stage repeated"
    )


def check_ends_the_same(folder: Path, expected: dict[str, str]) -> None:
    """Let the run end, and compare it with an undisturbed one."""
    final = run(train_command(folder))
    assert final.returncode == 0, final.stderr[-3000:]
    assert output_digests(folder / "smoke/manifest.json") == expected
    repeated = {stage: count for stage, count in finished_stages(folder / "smoke").items() if count > 1}
    assert not repeated
