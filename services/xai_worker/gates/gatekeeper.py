"""Measures every explanation of one protein."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from services.xai_worker.explainers import Explainer, ResiduePath
from services.xai_worker.explainers.base import FloatArray
from services.xai_worker.gates.concentration import complexity, specificity
from services.xai_worker.gates.faithfulness import RandomMasks, faithfulness
from services.xai_worker.gates.sites import site_enrichment
from services.xai_worker.gates.stability import stability, substituted
from services.xai_worker.readers import MaskedCache
from services.xai_worker.result import FaithfulnessGate, Gates, ResidueExplanation


@runtime_checkable
class SequencedPath(ResiduePath, Protocol):
    """A residue path that can be had of another sequence."""

    sequence: str

    def with_sequence(self, sequence: str, cache: MaskedCache | None = None) -> ResiduePath:
        """The same function of another sequence."""
        ...


@dataclass(frozen=True, slots=True)
class Measured:
    """One method's explanations of one path: values [asked terms, residues], and the gates of each."""

    path: SequencedPath
    explainer: Explainer
    values: FloatArray
    gates: list[Gates]


@dataclass
class Gatekeeper:
    """The gates of one protein's explanations; random orders are drawn and scored once per path.

    Args:
        sequence: the protein.
        sites: term -> known sites, 1-based.
        orders: random orders for faithfulness; 0 leaves it out.
        draws: changed proteins for stability, by method; others are left out.
    """

    sequence: str
    sites: Mapping[str, Collection[int]]
    orders: int
    draws: Mapping[str, int]
    _masks: RandomMasks | None = None
    _random: tuple[ResiduePath, FloatArray] | None = None

    def measure(
        self,
        path: SequencedPath,
        explainer: Explainer,
        terms: Sequence[str],
        values: FloatArray,
        gates: Sequence[Gates],
    ) -> Measured:
        """Add faithfulness, complexity and sites to the gates of one method's explanations.

        Args:
            path: what was explained.
            explainer: by what.
            terms: the asked terms.
            values: [asked terms, residues].
            gates: parity and completeness of each.
        """
        full = [
            gates[column].model_copy(
                update={
                    "faithfulness": self._faithfulness(path, values[column], column),
                    "complexity": complexity(values[column]),
                    "sites": site_enrichment(values[column], self.sites.get(term, ())),
                }
            )
            for column, term in enumerate(terms)
        ]
        return Measured(path, explainer, values, full)

    def stabilise(self, measured: Sequence[Measured]) -> None:
        """Add stability, in place, to those of one protein whose method has draws."""
        chosen = [item for item in measured if self.draws.get(item.explainer.name, 0)]
        if not chosen:
            return
        every = np.concatenate([item.values for item in chosen])
        again: list[list[FloatArray]] = [[] for _ in chosen]
        count = 0
        for draw in range(max(self.draws.values())):
            changed, count = substituted(self.sequence, every, draw)
            cache = MaskedCache()  # of this changed protein, for all paths
            for place, item in enumerate(chosen):
                if draw < self.draws[item.explainer.name]:
                    again[place].append(_values(item.explainer, item.path.with_sequence(changed, cache)))
        for item, draws in zip(chosen, again, strict=True):
            for column, gate in enumerate(stability(item.values, draws, count)):
                item.gates[column] = item.gates[column].model_copy(update={"stability": gate})

    def _faithfulness(self, path: SequencedPath, values: FloatArray, column: int) -> FaithfulnessGate | None:
        if not self.orders:
            return None
        if self._masks is None:
            self._masks = RandomMasks.of(self.sequence, path.covered, self.orders)
        if self._random is None or self._random[0] is not path:
            self._random = (path, self._masks.scores(path))
        return faithfulness(path, values, column, self._masks, self._random[1])


def with_specificity(
    found: Sequence[ResidueExplanation], related: Collection[tuple[str, str]]
) -> list[ResidueExplanation]:
    """Add term-specificity to one protein's residue explanations.

    Args:
        found: of any models and methods.
        related: pairs of terms of which one is above the other.
    """
    values = {(e.model, e.method, e.term): _array(e) for e in found}
    result = []
    for explanation in found:
        others = {
            term: array
            for (model, method, term), array in values.items()
            if (model, method) == (explanation.model, explanation.method)
            and term != explanation.term
            and (term, explanation.term) not in related
        }
        own = specificity(values[explanation.model, explanation.method, explanation.term], others)
        gates = explanation.gates.model_copy(update={"specificity": own})
        result.append(explanation.model_copy(update={"gates": gates}))
    return result


def _values(explainer: Explainer, path: ResiduePath) -> FloatArray:
    return np.stack([made.values for made in explainer.attribute(path, lambda _: None)])


def _array(explanation: ResidueExplanation) -> FloatArray:
    return np.array([np.nan if value is None else value for value in explanation.values])
