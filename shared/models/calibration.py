"""Probabilities from stacker logits: beta calibration per aspect, and when a protein counts as uncertain.

Source: M. Kull, T. Silva Filho, P. Flach, Beta calibration, AISTATS 2017: with s = 1 / (1 + exp(-z)),
logit p = a ln s - b ln(1 - s) + c. With a = b it is Platt scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shared.errors import IntegrityError
from shared.models.features import FloatArray

MIN_SLOPE = 0.05  # a calibration must keep the order of scores
PRIOR_PAIRS = 1.0  # weight of the identity, in pairs: separable or empty data stay finite
NEWTON_STEPS = 50
IDENTITY = (1.0, 1.0, 0.0)


@dataclass(frozen=True, slots=True)
class BetaCalibration:
    """logit p = -a softplus(-z) + b softplus(z) + c; the default changes nothing."""

    a: float = 1.0  # slope of very negative logits
    b: float = 1.0  # slope of very positive logits
    c: float = 0.0

    def probabilities(self, logits: npt.NDArray[np.floating]) -> FloatArray:
        """Calibrated probabilities, same shape, float32."""
        probabilities: FloatArray = _sigmoid(self.calibrated(logits)).astype(np.float32)
        return probabilities

    def calibrated(self, logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Calibrated logits, same shape."""
        result: npt.NDArray[np.float64] = np.tensordot([self.a, self.b, self.c], _design(logits), 1)
        return result

    def uncalibrated(self, calibrated: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """The inverse of `calibrated`, to about 1e-9."""
        target = calibrated.astype(np.float64)
        logits: npt.NDArray[np.float64] = (target - self.c) / ((self.a + self.b) / 2)
        # The curve is convex or concave and its slope lies between a and b: Newton's method cannot leave it.
        for _ in range(NEWTON_STEPS):
            share = _sigmoid(logits)
            step = (self.calibrated(logits) - target) / (self.a * (1 - share) + self.b * share)
            logits = logits - step
            if not step.size or np.abs(step).max() < 1e-10:
                break
        return logits


def _design(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Ln s, -ln(1 - s) and 1 for each logit; float64 [3, ...]."""
    z = np.asarray(logits, np.float64)
    return np.stack([-np.logaddexp(0, -z), np.logaddexp(0, z), np.ones_like(z)])


class LogitCounts:
    """How often each float16 logit met a positive and a negative label: all that a calibration needs.

    Logits are kept as float16, so at most 65,536 values occur: any number of pairs fits in this table,
    and a fit on it equals the fit on the pairs.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, 1 << 16), np.int64)

    def add(self, logits: npt.NDArray[np.float16], labels: npt.NDArray[np.bool_]) -> None:
        """Count a block of pairs; both arrays have the same shape."""
        codes = np.ascontiguousarray(logits, np.float16).view(np.uint16).ravel().astype(np.int64)
        flat = codes + (labels.ravel().astype(np.int64) << 16)
        self._counts += np.bincount(flat, minlength=2 << 16).reshape(2, -1)

    def table(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Logits that occurred, ascending, with their negatives and positives."""
        seen = np.flatnonzero(self._counts.sum(axis=0))
        logits = seen.astype(np.uint16).view(np.float16).astype(np.float64)
        order = np.argsort(logits, kind="stable")
        negative, positive = self._counts[:, seen[order]].astype(np.float64)
        return logits[order], negative, positive


def fit_beta(counts: LogitCounts) -> BetaCalibration:
    """Most likely (a, b, c) that keep the order of scores; the identity where there is nothing to learn from."""
    logits, negative, positive = counts.table()
    if positive.sum() == 0 or negative.sum() == 0:
        return BetaCalibration()
    design = _design(logits)
    theta = _newton(design, negative, positive, np.array(IDENTITY), free=np.array([True, True, True]))
    if (flat := theta[:2] < MIN_SLOPE).any():  # a slope at its bound; the others make the best of it
        start = np.where([*flat, False], MIN_SLOPE, np.maximum(theta, [MIN_SLOPE, MIN_SLOPE, -np.inf]))
        theta = _newton(design, negative, positive, start, free=np.array([*~flat, True]))
    a, b, c = theta.tolist()
    return BetaCalibration(max(MIN_SLOPE, a), max(MIN_SLOPE, b), c)


def _newton(
    design: npt.NDArray[np.float64],
    negative: npt.NDArray[np.float64],
    positive: npt.NDArray[np.float64],
    theta: npt.NDArray[np.float64],
    free: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    total = negative + positive
    best = _objective(theta, design, negative, positive)
    for _ in range(NEWTON_STEPS):
        p = _sigmoid(theta @ design)
        gradient = design @ (total * p - positive) + PRIOR_PAIRS * (theta - IDENTITY)
        hessian = (design * (total * p * (1 - p))) @ design.T + PRIOR_PAIRS * np.eye(len(theta))
        step = np.zeros_like(theta)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        scale = 1.0
        while scale > 1e-6 and (value := _objective(theta - scale * step, design, negative, positive)) > best:
            scale /= 2
        if scale <= 1e-6 or best - value <= 1e-12 * best:
            break
        theta, best = theta - scale * step, value
    return theta


def _objective(
    theta: npt.NDArray[np.float64],
    design: npt.NDArray[np.float64],
    negative: npt.NDArray[np.float64],
    positive: npt.NDArray[np.float64],
) -> float:
    z = theta @ design
    loss = positive @ np.logaddexp(0, -z) + negative @ np.logaddexp(0, z)
    return float(loss + 0.5 * PRIOR_PAIRS * ((theta - IDENTITY) ** 2).sum())


def log_loss(counts: LogitCounts, beta: BetaCalibration) -> float | None:
    """Mean binary cross-entropy per pair, in nats; None without pairs."""
    logits, negative, positive = counts.table()
    pairs = negative.sum() + positive.sum()
    z = beta.calibrated(logits)
    return float((positive @ np.logaddexp(0, -z) + negative @ np.logaddexp(0, z)) / pairs) if pairs else None


def expected_calibration_error(counts: LogitCounts, beta: BetaCalibration, bins: int = 15) -> float | None:
    """Mean |predicted - observed| over equal-width probability bins, weighted by pairs; None without pairs."""
    logits, negative, positive = counts.table()
    pairs = negative + positive
    if pairs.sum() == 0:
        return None
    p = _sigmoid(beta.calibrated(logits))
    bin_of = np.minimum((p * bins).astype(np.int64), bins - 1)
    predicted = np.bincount(bin_of, p * pairs, bins)
    observed = np.bincount(bin_of, positive, bins)
    return float(np.abs(predicted - observed).sum() / pairs.sum())


@dataclass(frozen=True, slots=True)
class Calibration:
    """Beta calibration per aspect, and the top score below which an aspect's prediction is uncertain.

    The aspect's root is left out of the top score: it is true of every annotated protein.
    """

    beta: Mapping[str, BetaCalibration]
    low_conf_threshold: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """`calibration` and `low_conf_threshold` as they stand in `models/stacker.json`."""
        return {
            "calibration": {aspect: asdict(beta) for aspect, beta in self.beta.items()},
            "low_conf_threshold": dict(self.low_conf_threshold),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; other keys are ignored.

        Raises:
            IntegrityError: an aspect's record is not that of a beta calibration.
        """
        beta = {}
        for aspect, values in document["calibration"].items():
            if set(values) != set(BetaCalibration.__slots__):
                raise IntegrityError(
                    f"the calibration of {aspect} has {', '.join(sorted(values))}, not a, b, c",
                    remedy="The model is of another release: run stage_08_stacker and what follows it again",
                )
            beta[aspect] = BetaCalibration(**values)
        return cls(beta, dict(document["low_conf_threshold"]))

    def probabilities(self, logits: FloatArray, aspects: npt.NDArray[np.str_]) -> FloatArray:
        """Calibrate logits [protein, term]; `aspects` names each column's aspect."""
        result = np.empty(logits.shape, np.float32)
        for aspect in np.unique(aspects):
            columns = aspects == aspect
            result[:, columns] = self.beta.get(str(aspect), BetaCalibration()).probabilities(logits[:, columns])
        return result

    def low_confidence(
        self,
        probabilities: FloatArray,
        aspects: npt.NDArray[np.str_],
        terms: npt.NDArray[np.str_],
        roots: frozenset[str],
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Per aspect, which proteins [protein] have a top score below the aspect's threshold."""
        uncertain = {}
        for aspect, threshold in self.low_conf_threshold.items():
            columns = (aspects == aspect) & ~np.isin(terms, sorted(roots))
            top = top_scores(probabilities[:, columns])
            uncertain[aspect] = np.zeros(len(top), bool) if threshold is None else top < threshold
        return uncertain


def top_scores(probabilities: npt.NDArray[np.floating]) -> FloatArray:
    """Each protein's highest score [protein]; 0 where there are no terms."""
    if probabilities.shape[1] == 0:
        return np.zeros(probabilities.shape[0], np.float32)
    highest: FloatArray = probabilities.max(axis=1).astype(np.float32)
    return highest


def _sigmoid(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = np.exp(-np.logaddexp(0, -z))
    return result
