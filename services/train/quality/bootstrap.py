"""Intervals by resampling proteins; two models are compared on the same resamples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.train.evaluation import ProteinCurves

REPLICATES = 1000
SEED = 97
INTERVAL = (2.5, 97.5)  # percentiles
CHUNK = 100  # replicates at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % percentile interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def resamples(proteins: int, replicates: int = REPLICATES, seed: int = SEED) -> npt.NDArray[np.float64]:
    """How often each protein is drawn, [replicate, protein]; with replacement, the same for every model."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [np.bincount(rng.integers(0, proteins, proteins), minlength=proteins) for _ in range(replicates)]
    ).astype(np.float64)


def sampled_fmax(curves: ProteinCurves, drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Fmax of each resample."""
    return np.concatenate([curves.fmax(drawn[start : start + CHUNK]) for start in range(0, len(drawn), CHUNK)])


def interval(curves: ProteinCurves, drawn: npt.NDArray[np.float64]) -> Interval:
    """Weighted Fmax with its interval."""
    low, high = np.percentile(sampled_fmax(curves, drawn), INTERVAL)
    return Interval(float(curves.fmax()[0]), float(low), float(high))


@dataclass(frozen=True, slots=True)
class Difference:
    """Weighted Fmax of one model minus another's on the same proteins, and how often it was not above 0."""

    value: float
    low: float
    high: float
    not_above: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def difference(ours: ProteinCurves, theirs: ProteinCurves, drawn: npt.NDArray[np.float64]) -> Difference:
    """Paired bootstrap over proteins.

    Raises:
        ValueError: the two were not measured on the same proteins.
    """
    if not np.array_equal(ours.rows, theirs.rows):
        raise ValueError("paired models need the same proteins")
    gaps = sampled_fmax(ours, drawn) - sampled_fmax(theirs, drawn)
    low, high = np.percentile(gaps, INTERVAL)
    value = float(ours.fmax()[0] - theirs.fmax()[0])
    return Difference(value, float(low), float(high), float(np.mean(gaps <= 0)))
