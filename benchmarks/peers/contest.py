"""Ways of doing one thing, run in turn on one thread and compared by processor time.

Processor time, because other programs on the machine disturb it less than the clock; one thread, because
cores that share an operator wait for each other, which processor time would not show.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Result = npt.NDArray[Any]
Way = Callable[[], tuple[float, Result]]


@dataclass
class Contest:
    """Seconds of every round and the last result of each way; `skipped` says why a peer is not among them."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def ratio(self, ours: str, peer: str) -> float:
        """Median over rounds of the peer's time by ours; each round's two runs were neighbours in time."""
        return statistics.median(b / a for a, b in zip(self.seconds[ours], self.seconds[peer], strict=True))

    def spread(self, name: str) -> float:
        """Slowest by fastest round."""
        return max(self.seconds[name]) / min(self.seconds[name])


def timed(work: Callable[[], Result]) -> Way:
    """A way in this process."""

    def way() -> tuple[float, Result]:
        started = time.process_time()
        result = work()
        return time.process_time() - started, result

    return way


def interleave(ways: dict[str, Way], rounds: int, skipped: dict[str, str] | None = None) -> Contest:
    """One warm-up that is not counted, then `rounds` rounds."""
    contest = Contest({name: [] for name in ways}, {}, dict(skipped or {}))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for count in range(rounds + 1):
            for name, way in ways.items():
                seconds, contest.results[name] = way()
                if count:
                    contest.seconds[name].append(seconds)
    finally:
        torch.set_num_threads(before)
    return contest


def peak(shape: tuple[int, int, int], dtype: torch.dtype = torch.bfloat16, *, packed: bool = False) -> Way:
    """A matrix product [m, k] x [k, n] that takes about 50 ms; its result is operations per second.

    `packed` is oneDNN's on packed weights, which is the faster one in float32.
    """
    m, k, n = shape
    left, right = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    flops = 2.0 * m * k * n
    if packed:
        right = torch.ops.mkldnn._reorder_linear_weight(right)

    def product() -> torch.Tensor:
        if packed:
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
            return out
        return torch.nn.functional.linear(left, right)

    def way() -> tuple[float, Result]:
        best = np.inf
        with torch.inference_mode():
            for _ in range(6):
                started = time.process_time()
                for _ in range(4):
                    product()
                best = min(best, (time.process_time() - started) / 4)
        return best, np.array(flops / best)

    return way


def cosine_distance(found: Result, wanted: Result) -> float:
    """Largest 1 - cosine over rows."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    return float((1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).max())
