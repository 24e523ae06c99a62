"""Integrated gradients of five terms beside captum, on the 8M encoder with random weights.

The task is that of the explanations' own benchmark (services.xai_worker.bench.speed).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.peers.contest import Contest, Result, Way, interleave, timed
from services.xai_worker.bench.speed import BATCHES, Task, make_task

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
