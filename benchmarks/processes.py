"""One fit of the multi-label heads on one and on two processes: `python -m benchmarks.processes`.

The wall clock tells where nothing else runs; the processor time of process 0, which it does not spend waiting, elsewhere.

Each way starts itself under torchrun on this machine's loopback. The last line is PASS or FAIL: whether two processes
made the weights of one, bit by bit, at two batches per step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rows.mlp import BATCH, FIT, TERMS, make_context, make_data
from services.train.models.mlp import MlpFitter
from services.train.processes import assembled
from services.train.team import Team
from shared.edge import Parser, main

WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
EPOCHS, ACCUMULATE = 2, 2


def measure(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Way -> seconds (`wall`, `cpu`) and digest of each round; the ways take turns."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, (processes, threads) in WAYS.items():
            started = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
            module = ["-m", "benchmarks.processes", "--fit", str(threads)]
            done = subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", *started, *module],
                env={
                    **os.environ,
                    "GLOO_SOCKET_IFNAME": "lo",
                    "OMP_NUM_THREADS": str(threads),
                    "OMP_WAIT_POLICY": "PASSIVE",
                },
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[way].append(json.loads(done.stdout))
            print(f"{way}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    return found


def fit(threads: int) -> None:
    """Fit a few proteins to warm up, then all: print the leader's seconds and the digest of its weights."""
    with tempfile.TemporaryDirectory(prefix="gowhy-bench-") as name, assembled("cpu", ACCUMULATE) as (team, _):
        data, context = make_data(Path(name)), make_context(Path(name), EPOCHS)
        policy = context.config.training.model_copy(update={"accumulate": ACCUMULATE, "precision": "float32"})
        config = context.config.model_copy(update={"training": policy})
        context = replace(context, config=config, threads=threads, team=team)
        torch.set_num_threads(threads)
        calls = iter([("fit", str(2 * BATCH)), ("fit", str(FIT))])
        while (call := next_call(team, calls)) is not None:
            wall, cpu = time.monotonic(), time.process_time()
            model = MlpFitter().fit(data, np.arange(int(call[1])), context)
            taken = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
            if team.leads and call[1] == str(FIT):
                digest = hashlib.sha256()
                for _, array in sorted(model.arrays().items()):
                    digest.update(np.ascontiguousarray(array).tobytes())
                print(json.dumps({**taken, "sha256": digest.hexdigest()}))


def next_call(team: Team, calls: Any) -> tuple[str, str] | None:
    """What is to be fitted next: said by the leader, heard by the others."""
    if not team.leads:
        return team.heard()
    call: tuple[str, str] | None = next(calls, None)
    if call is not None:
        team.call(*call)
    return call


def command(arguments: argparse.Namespace) -> int:
    """Measure, or be measured."""
    if arguments.fit is not None:
        fit(arguments.fit)
        return 0
    found = measure(arguments.rounds)
    print(f"{EPOCHS} epochs of {FIT} proteins, {TERMS} terms, batches of {BATCH}, {ACCUMULATE} per step, float32")
    for way, rounds in found.items():
        shown = [
            f"{name} median {statistics.median(values):.2f} s of {', '.join(f'{value:.2f}' for value in values)}"
            for name, values in ((name, [round_[name] for round_ in rounds]) for name in ("wall", "cpu"))
        ]
        print(f"{way:<28} {'; '.join(shown)}")
    one, _, two = found.values()
    equal = len({round_["sha256"] for round_ in one + two}) == 1
    print("PASS 1/1" if equal else "FAIL 0/1: equal weights")
    return 0 if equal else 1


if __name__ == "__main__":
    parser = Parser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fit", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    parser.set_defaults(command=command)
    raise SystemExit(main(parser))
