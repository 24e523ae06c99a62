"""Logistic regression of many terms beside Newton's method per term, on the same objective."""

from __future__ import annotations

import numpy as np

from benchmarks.peers.contest import Result, interleave, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as line
from services.train.models.logreg import PrincipalBasis
from shared.config.level1 import LogregConfig

ROWS, DIM, TERMS, L2 = 3000, 256, 60, 1e-3
NEWTON_STEPS, NEWTON_CHANGE = 20, 1e-5  # the mean squared change that ends Newton's method
OURS, THEIRS = "gowhy", "Newton per term"


def compare(rounds: int) -> list[Comparison]:
    """Probabilities of the fitted rows are compared."""
    inputs, targets = data()
    options = LogregConfig(l2=L2)

    def ours() -> Result:
        weights, bias = PrincipalBasis.of(inputs, options.components).solve(targets, options)
        return probability(inputs @ weights + bias)

    contest = interleave({THEIRS: timed(lambda: newton(inputs, targets)), OURS: timed(ours)}, rounds)
    return [
        line(
            contest,
            OURS,
            THEIRS,
            name="logistic regression",
            sizes=f"{ROWS} x {DIM}, {TERMS} terms",
            least=20.0,
            difference=float(np.abs(contest.results[OURS] - contest.results[THEIRS]).max()),
            tolerance=1e-3,
            measure="largest difference of a probability",
        )
    ]


def data() -> tuple[Result, Result]:
    """Inputs float32 [row, dimension] and labels float32 [row, term] of a logistic model, about 5 % positive."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((ROWS, DIM), np.float32)
    logits = inputs @ (0.15 * rng.standard_normal((DIM, TERMS), np.float32)) - 3
    return inputs, (rng.random((ROWS, TERMS)) < probability(logits)).astype(np.float32)


def probability(logits: Result) -> Result:
    """Sigmoid."""
    found: Result = 1 / (1 + np.exp(-logits))
    return found


def newton(inputs: Result, targets: Result) -> Result:
    """Mean log-loss + l2 / 2 |weights|^2, bias free: a Hessian and its inverse per term and step, as ProtBoost does."""
    count = len(inputs)
    joined = np.concatenate([np.ones((count, 1), np.float32), inputs], axis=1)
    penalty = np.full((joined.shape[1], 1), L2, np.float32)
    penalty[0] = 0
    weights = np.zeros((joined.shape[1], targets.shape[1]), np.float32)
    for _ in range(NEWTON_STEPS):
        predicted = probability(joined @ weights)
        gradient = joined.T @ (predicted - targets) / count + penalty * weights
        change = np.empty_like(weights)
        for term in range(targets.shape[1]):
            curvature = predicted[:, [term]] * (1 - predicted[:, [term]])
            hessian = (joined * curvature).T @ joined / count + np.diag(penalty[:, 0])
            change[:, term] = np.linalg.inv(hessian) @ gradient[:, term]
        weights -= change
        if (change**2).sum() < NEWTON_CHANGE * targets.shape[1] / 100:
            break
    return probability(joined @ weights)
