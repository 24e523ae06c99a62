"""Faithfulness: masking the residues that an explanation names first must hurt more than masking random ones.

Only up to 15 % of the residues are masked, the share that ESM-2 was trained with: beyond it a score says
more of the masks than of the protein. Random orders are drawn once per protein, and serve every model,
method and term.

Source: Zheng et al. 2024 (F-Fidelity), arXiv 2410.02970; p after Phipson & Smyth 2010 (never 0).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.xai_worker.explainers.base import BoolArray, FloatArray, ResiduePath
from services.xai_worker.result import FaithfulnessGate, FaithfulnessPoint
from shared.digests import sha256_bytes

BUDGET = 0.15
ORDERS = 100
THIRDS = 3  # one residue, a third of the budget, all of it: few sizes, because each costs ORDERS forward passes
BOOTSTRAP_DRAWS = 1000
P_LIMIT = 0.01


@dataclass(frozen=True)
class RandomMasks:
    """Random orders of a protein's residues, masked in growing numbers.

    Attributes:
        sizes: how many residues are masked.
        groups: [order][size] the masked residues; each is part of the next larger one of its order.
    """

    sizes: tuple[int, ...]
    groups: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def of(cls, sequence: str, covered: BoolArray, orders: int = ORDERS) -> RandomMasks:
        """Equal sequences have equal orders."""
        seen = np.flatnonzero(covered)
        budget = max(1, int(np.ceil(BUDGET * len(seen))))
        sizes = tuple(sorted({1, -(-budget // THIRDS), budget}))
        rng = np.random.default_rng(int(sha256_bytes(sequence.encode())[:16], 16))
        drawn = [rng.permutation(seen)[:budget].tolist() for _ in range(orders)]
        return cls(sizes, tuple(tuple(tuple(order[:size]) for size in sizes) for order in drawn))

    def scores(self, path: ResiduePath) -> FloatArray:
        """Logits [orders, sizes, asked terms]."""
        flat = [list(group) for order in self.groups for group in order]
        scores: FloatArray = path.masked_logits(flat).double().cpu().numpy()
        return scores.reshape(len(self.groups), len(self.sizes), -1)


def faithfulness(
    path: ResiduePath, values: FloatArray, column: int, masks: RandomMasks, random_scores: FloatArray
) -> FaithfulnessGate:
    """Measure one explanation.

    Args:
        path: what was explained.
        values: [residues], NaN where the model never sees the residue.
        column: the term's column.
        masks: the random orders.
        random_scores: their logits, as `RandomMasks.scores` gives them.
    """
    order = [int(i) for i in np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")]
    groups: list[list[int]] = [[], *(order[:size] for size in masks.sizes)]
    scores = path.masked_logits(groups).double().cpu().numpy()[:, column]
    drops, random = scores[0] - scores[1:], scores[0] - random_scores[..., column]
    return judged(drops, random, masks.sizes)


def judged(drops: FloatArray, random: FloatArray, sizes: tuple[int, ...]) -> FaithfulnessGate:
    """From falls [sizes] of an explanation and [orders, sizes] of random orders to the gate."""
    drop, each = float(drops.mean()), random.mean(axis=1)
    low, high = interval(drop - each)
    p = float((1 + (each >= drop).sum()) / (1 + len(each)))
    bands = np.quantile(random, [0.025, 0.975], axis=0)
    curve = [
        FaithfulnessPoint(
            masked=size,
            drop=float(drops[k]),
            random_mean=float(random[:, k].mean()),
            random_low=float(bands[0, k]),
            random_high=float(bands[1, k]),
        )
        for k, size in enumerate(sizes)
    ]
    lowest, highest = np.quantile(each, [0.025, 0.975])
    return FaithfulnessGate(
        budget=BUDGET,
        orders=len(each),
        drop=drop,
        random_mean=float(each.mean()),
        random_low=float(lowest),
        random_high=float(highest),
        difference=drop - float(each.mean()),
        low=low,
        high=high,
        p=p,
        curve=curve,
        passed=p < P_LIMIT and low > 0,
    )


def interval(values: npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    draws = np.random.default_rng(seed).integers(0, len(values), (BOOTSTRAP_DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
