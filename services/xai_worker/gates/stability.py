"""Stability: an explanation should stay when residues that it calls unimportant change into similar ones.

Embedding noise, the usual perturbation, is no protein; a conservative substitution is. The changed
proteins are the same for every model and term: their forward passes are shared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata, spearmanr

from services.xai_worker.explainers.base import FloatArray
from services.xai_worker.result import StabilityGate
from shared.digests import sha256_bytes

SHARE = 0.05  # of the residues are substituted in a draw
TOP = 10
LIMIT = 0.7
# Pairs of amino acids with a BLOSUM62 score of at least 1. Source: Henikoff & Henikoff 1992.
_PAIRS = "AS RK RQ ND NH NS DE QE QK EK HY IV IL IM LM LV MV FY FW ST WY"
SIMILAR: dict[str, str] = {
    letter: "".join(sorted(pair.replace(letter, "") for pair in _PAIRS.split() if letter in pair))
    for letter in sorted(set(_PAIRS) - {" "})
}


def substituted(sequence: str, values: FloatArray, draw: int) -> tuple[str, int]:
    """The sequence with conservative substitutions at residues of the lower half, and how many.

    Args:
        sequence: the protein.
        values: [explanations, residues]; the lower half is by the mean rank of |value| over all of them.
        draw: number of the draw; equal arguments give equal sequences.
    """
    ranks = np.mean([rankdata(np.nan_to_num(np.abs(row), nan=np.inf)) for row in values], axis=0)
    lower = ranks <= np.median(ranks)
    places = [i for i in np.flatnonzero(lower).tolist() if sequence[i] in SIMILAR]
    count = min(len(places), max(1, round(SHARE * len(sequence))))
    rng = np.random.default_rng([draw, int(sha256_bytes(sequence.encode())[:16], 16)])
    letters = list(sequence)
    for place in rng.choice(places, count, replace=False).tolist() if places else []:
        letters[place] = str(rng.choice(list(SIMILAR[sequence[place]])))
    return "".join(letters), count


def stability(values: FloatArray, again: Sequence[FloatArray], substitutions: int) -> list[StabilityGate]:
    """One gate per asked term.

    Args:
        values: explanations [asked terms, residues].
        again: by draw, those of the changed protein.
        substitutions: per draw.
    """
    correlations = np.array([[correlation(*pair) for pair in zip(values, draw, strict=True)] for draw in again])
    jaccards = np.array([[_jaccard(*pair) for pair in zip(values, draw, strict=True)] for draw in again])
    return [
        StabilityGate(
            draws=len(again),
            substitutions=substitutions,
            spearman=float(correlations[:, term].mean()),
            lowest=float(correlations[:, term].min()),
            jaccard=float(jaccards[:, term].mean()),
            passed=float(correlations[:, term].mean()) >= LIMIT,
        )
        for term in range(len(values))
    ]


def correlation(one: FloatArray, other: FloatArray) -> float:
    """Spearman's rank correlation over what both see; 0 where one of them is constant."""
    seen = ~(np.isnan(one) | np.isnan(other))
    if seen.sum() < 2 or not np.ptp(one[seen]) or not np.ptp(other[seen]):
        return 0.0
    return float(spearmanr(one[seen], other[seen]).statistic)


def _jaccard(one: FloatArray, other: FloatArray) -> float:
    first, second = (
        set(np.argsort(-np.nan_to_num(v, nan=-np.inf), kind="stable")[:TOP].tolist()) for v in (one, other)
    )
    return len(first & second) / len(first | second)
