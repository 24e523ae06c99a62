"""Integrated gradients of five terms beside captum, on the 8M encoder with random weights.

The task is that of the explanations' own benchmark (services.xai_worker.bench.speed).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.gates import Gate
from benchmarks.peers.contest import Contest, Result, Way, interleave, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as compared
from services.xai_worker.bench.speed import BATCHES, LENGTH, STEPS, TERMS, Task, make_task

OURS, NAIVE, TUNED = "gowhy", "captum, whole batch", "captum, internal_batch_size {}"


def measure(rounds: int) -> tuple[Contest, Task]:
    """Attributions [term, residue] of every way; captum takes 50 steps."""
    task = make_task()

    def way(work: Callable[[], torch.Tensor]) -> Way:
        return timed(lambda: work().numpy())

    ways = {NAIVE: way(lambda: task.captum(None)), OURS: way(task.ours)}
    for batch in BATCHES:
        ways[TUNED.format(batch)] = way(lambda batch=batch: task.captum(batch))  # type: ignore[misc]
    return interleave(ways, rounds), task


def tuned(contest: Contest) -> str:
    """Captum's fastest way in this contest."""
    return min(
        (name for name in contest.seconds if name.startswith("captum")), key=lambda name: min(contest.seconds[name])
    )


def rank_correlation(found: Result, wanted: Result) -> float:
    """Smallest Spearman correlation over terms."""
    return float(min(spearmanr(a, b)[0] for a, b in zip(np.asarray(found), np.asarray(wanted), strict=True)))


def compare(rounds: int) -> list[Comparison]:
    """Beside captum per term, and beside captum at its best in the same run."""
    contest, task = measure(rounds)
    rank = rank_correlation(contest.results[OURS], contest.results[NAIVE])
    line = {
        "sizes": f"{TERMS} terms, {LENGTH} residues, 8M; {max(task.steps)} nodes by captum's {STEPS}",
        "difference": 1 - rank,
        "tolerance": 1e-3,
        "measure": "1 - Spearman",
        "also": [Gate("completeness", task.errors[-1] <= 0.01, f"{task.errors[-1]:.1e} (<= 0.01)")],
    }
    best = tuned(contest)
    return [
        compared(contest, OURS, NAIVE, name="integrated gradients", least=8.0, **line),
        compared(contest, OURS, best, name=f"integrated gradients, {best}", least=2.5, **line),
    ]
