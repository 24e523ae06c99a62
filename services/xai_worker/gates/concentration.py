"""Complexity and term-specificity: how many residues carry an explanation, and is it this term's own?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from services.xai_worker.explainers.base import FloatArray
from services.xai_worker.gates.stability import correlation
from services.xai_worker.result import ComplexityGate, SpecificityGate

SPECIFIC_LIMIT = 0.8


def complexity(values: FloatArray) -> ComplexityGate:
    """Effective residues are exp of the entropy of |value| / sum |value|: all residues if all are equal, 1 if one says all."""
    sizes = np.sort(np.abs(values[~np.isnan(values)]))
    total, count = float(sizes.sum()), len(sizes)
    if total == 0 or count == 0:
        return ComplexityGate(effective_residues=float(count), gini=0.0, residues=count)
    shares = sizes / total
    positive = shares[shares > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    gini = float(((2 * np.arange(1, count + 1) - count - 1) * shares).sum() / count)
    return ComplexityGate(effective_residues=float(np.exp(entropy)), gini=gini, residues=count)


def specificity(values: FloatArray, unrelated: Mapping[str, FloatArray]) -> SpecificityGate | None:
    """Compare with the explanations of unrelated terms by the same method; None where there is none."""
    if not unrelated:
        return None
    found = {term: correlation(values, other) for term, other in unrelated.items()}
    nearest = max(sorted(found), key=lambda term: found[term])
    return SpecificityGate(
        spearman=found[nearest], term=nearest, compared=len(found), passed=found[nearest] <= SPECIFIC_LIMIT
    )
