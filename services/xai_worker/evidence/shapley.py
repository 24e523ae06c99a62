"""What each modality adds to the final score: exact Shapley values, their interactions, and how sure they are.

All coalitions are known (`ModalityGame`), so nothing is sampled but the background proteins, and the
interval is a bootstrap over those.

Source: Shapley 1953; interaction index of Grabisch & Roubens 1999, doi:10.1007/s001820050125.
"""

from __future__ import annotations

from itertools import combinations
from math import factorial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from services.xai_worker.evidence.base import Context
from services.xai_worker.result import AnyExplanation, Interaction, ModalityExplanation, ModalityShare

BOOTSTRAP_DRAWS = 1000
SEED = 37
FloatArray = npt.NDArray[np.float64]


def shapley_values(values: FloatArray, players: int) -> FloatArray:
    """[player, ...] from the values [2**players, ...] of every coalition; exact, and linear in `values`.

    phi_i = sum over S without i of |S|! (k - |S| - 1)! / k! (v(S + i) - v(S)).
    """
    coalitions = np.arange(1 << players)
    size = _sizes(coalitions)
    found = np.empty((players, *values.shape[1:]))
    for player in range(players):
        without = coalitions[(coalitions >> player & 1) == 0]
        weight = np.array([factorial(s) * factorial(players - s - 1) / factorial(players) for s in size[without]])
        found[player] = np.tensordot(weight, values[without | 1 << player] - values[without], axes=1)
    return found


def shapley_interactions(values: FloatArray, players: int) -> dict[tuple[int, int], FloatArray]:
    """Shapley interaction index of every pair."""
    coalitions = np.arange(1 << players)
    size = _sizes(coalitions)
    found = {}
    for i, j in combinations(range(players), 2):
        without = coalitions[(coalitions >> i & 1 | coalitions >> j & 1) == 0]
        weight = np.array([factorial(s) * factorial(players - s - 2) / factorial(players - 1) for s in size[without]])
        second = (
            values[without | 1 << i | 1 << j] - values[without | 1 << i] - values[without | 1 << j] + values[without]
        )
        found[i, j] = np.tensordot(weight, second, axes=1)
    return found


class Shapley:
    """Registry entry `shapley`."""

    name: ClassVar[str] = "shapley"

    def explain(self, context: Context) -> list[AnyExplanation]:
        """One document per asked term; `score.reference` is the background's mean score."""
        players = context.game.players
        found: list[AnyExplanation] = []
        for term in context.target.terms:
            values = context.game.values[term]  # [coalition, background]
            each = shapley_values(values, len(players))  # [player, background]
            shares, mean = each.mean(axis=1), values.mean(axis=1)
            draws = np.random.default_rng(SEED).integers(0, values.shape[1], (BOOTSTRAP_DRAWS, values.shape[1]))
            low, high = np.quantile(each[:, draws].mean(axis=2), [0.025, 0.975], axis=1)
            pairs = shapley_interactions(mean, len(players))
            score, reference = float(mean[-1]), float(mean[0])
            found.append(
                ModalityExplanation(
                    **context.common(term, self.name, logit=score, reference=reference),
                    shares=[
                        ModalityShare(modality=name, value=float(shares[i]), low=float(low[i]), high=float(high[i]))
                        for i, name in enumerate(players)
                    ],
                    interactions=[
                        Interaction(first=players[i], second=players[j], value=float(value))
                        for (i, j), value in pairs.items()
                    ],
                    coalitions=len(values),
                    background=values.shape[1],
                    seed=SEED,
                    efficiency_residual=abs(float(shares.sum()) - (score - reference)),
                )
            )
        return found


def _sizes(coalitions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.array([int(coalition).bit_count() for coalition in coalitions], np.int64)
