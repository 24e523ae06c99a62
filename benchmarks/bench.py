"""`make bench`: every row beside its peers in one run, by processor time, medians of interleaved repeats.

    python -m benchmarks.bench [--row NAME ...] [--rounds N] [--out out/bench]

Prints the table and writes it to `out/bench/bench.json`. The last line is `PASS n/m`, or `FAIL n/m: names` with
exit 1. A row whose peer is not installed is refused, which is a miss.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gates import report
from benchmarks.peers.client import PeerMissing
from benchmarks.rows import ROWS
from benchmarks.rows.base import Comparison, refusal, table
from shared.atomic import write_json

INSTALL = "run `make bench`, which installs envs/pip/bench.txt into .venv-bench, and `make setup`"


def main(arguments: Sequence[str] | None = None, rows: Mapping[str, str] = ROWS) -> int:
    """Measure, print, write, judge; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description="Every row beside its peers.")
    parser.add_argument("--row", action="append", choices=sorted(rows), help="only this row; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved repeats of each side")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 1:
        parser.error("--rounds is at least 1")
    lines: list[Comparison] = []
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.row or rows:
        started = time.monotonic()
        print(f"{name} ...", flush=True)
        found = measured(name, rows[name], chosen.rounds)
        for line in found:
            print("  ".join(line.cells()), flush=True)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        lines += found
        # After every row, so that a run that is cut short leaves what it measured.
        document = {"machine": machine(), "rounds": chosen.rounds, "rows": [line.document() for line in lines]}
        write_json(chosen.out / "bench.json", document)
    print(table(lines))
    return report([line.gate() for line in lines])


def measured(name: str, module: str, rounds: int) -> list[Comparison]:
    """The row's lines; one refused line where its peer is not there."""
    try:
        lines: list[Comparison] = importlib.import_module(module).compare(rounds)
    except PeerMissing as error:
        return [refusal(name, str(error))]
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("benchmarks", "services", "shared"):
            raise
        return [refusal(name, f"{error.name} is not installed: {INSTALL}")]
    return lines


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    raise SystemExit(main())
