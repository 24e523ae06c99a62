"""What would have to be gone for the term not to be predicted: the smallest such set of residues, or of modalities.

Modalities are few: every set is tried, and a smallest one is certain. Residues are many: they are masked
in the order of occlusion until the score falls below the threshold, then given back one by one wherever
the score stays below. What remains is irreducible (no member can be given back), not surely the smallest.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from services.xai_worker.evidence.base import Context
from services.xai_worker.gates.faithfulness import BUDGET
from services.xai_worker.result import AnyExplanation, CounterfactualExplanation, Removed
from services.xai_worker.whole import VOTES, WholePath


class ModalityCounterfactual:
    """Registry entry `counterfactual_modalities`."""

    name: ClassVar[str] = "counterfactual_modalities"

    def explain(self, context: Context) -> list[AnyExplanation]:
        """One document per asked term that is predicted at all."""
        return [self._document(context, term) for term in context.target.terms]

    def _document(self, context: Context, term: str) -> CounterfactualExplanation:
        game, threshold = context.game, context.threshold
        probabilities = context.probability(term, game.values[term].mean(axis=1))
        whole = (1 << len(game.players)) - 1
        own = float(probabilities[whole])
        best = None
        if own >= threshold:
            below = [c for c in range(whole) if probabilities[c] < threshold]
            # Fewest removed first; among equals the one that falls deepest.
            best = min(below, key=lambda c: (-c.bit_count(), probabilities[c], c), default=None)
        gone = [] if best is None else [p for p in range(len(game.players)) if not best >> p & 1]
        removed, left = [], whole
        for player in gone:
            left &= ~(1 << player)
            removed.append(Removed(name=game.players[player], probability=float(probabilities[left])))
        return CounterfactualExplanation(
            **context.common(term, self.name, logit=float(game.values[term][whole].mean())),
            subject="modalities",
            threshold=threshold,
            own_probability=own,
            found=best is not None,
            removed=removed,
            after=float(probabilities[whole if best is None else best]),
            search="exhaustive",
            minimality="none" if best is None else "smallest",
            budget=len(game.players),
            fixed=[],
        )


class ResidueCounterfactual:
    """Registry entry `counterfactual_residues`."""

    name: ClassVar[str] = "counterfactual_residues"

    def explain(self, context: Context) -> list[AnyExplanation]:
        """One document per asked term."""
        found: list[AnyExplanation] = []
        for path in context.paths.values():
            length = len(path.sequence)
            single = path.masked_logits([[], *([i] for i in range(length))]).double().cpu().numpy()
            found += [
                self._document(context, path, column, single[0, column] - single[1:, column])
                for column in range(len(path.terms))
            ]
        return found

    def _document(self, context: Context, path: WholePath, column: int, drops: np.ndarray) -> CounterfactualExplanation:
        term, threshold = path.terms[column], context.threshold
        budget = max(1, int(np.ceil(BUDGET * len(path.sequence))))
        own = self._probability(context, path, column, [[]])[0]
        order = [int(i) for i in np.argsort(-drops, kind="stable")[:budget]]
        chosen: list[int] = []
        if own >= threshold:
            prefixes = self._probability(context, path, column, [order[: k + 1] for k in range(budget)])
            below = np.flatnonzero(prefixes < threshold)
            if len(below):
                chosen = self._reduced(context, path, column, order[: int(below[0]) + 1])
        steps: list[float] = []
        if chosen:
            steps = self._probability(context, path, column, [chosen[: k + 1] for k in range(len(chosen))]).tolist()
        return CounterfactualExplanation(
            **context.common(term, self.name),
            subject="residues",
            threshold=threshold,
            own_probability=float(own),
            found=bool(chosen),
            removed=[
                Removed(name=f"{path.sequence[i]}{i + 1}", position=i + 1, probability=float(p))
                for i, p in zip(chosen, steps, strict=True)
            ],
            after=float(steps[-1]) if len(steps) else float(own),
            search="greedy",
            minimality="irreducible" if chosen else "none",
            budget=budget,
            fixed=[VOTES + name for name in path.votes] + (["annotations"] if context.known.goa else []),
        )

    def _reduced(self, context: Context, path: WholePath, column: int, chosen: list[int]) -> list[int]:
        """Give back, weakest first, every residue without which the score stays below; until none is left."""
        threshold = context.threshold
        while len(chosen) > 1:
            tries = [[i for i in chosen if i != given] for given in reversed(chosen)]
            after = self._probability(context, path, column, tries)
            kept = np.flatnonzero(after < threshold)
            if not len(kept):
                break
            chosen = tries[int(kept[0])]
        return chosen

    @staticmethod
    def _probability(context: Context, path: WholePath, column: int, groups: list[list[int]]) -> np.ndarray:
        logits = path.masked_logits(groups)[:, column].double().cpu().numpy()
        return context.probability(path.terms[column], logits)
