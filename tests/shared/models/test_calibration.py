"""Calibration against scikit-learn and against planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as reference_log_loss

from shared.models.calibration import (
    Calibration,
    LogitCounts,
    Platt,
    expected_calibration_error,
    fit_platt,
    log_loss,
    top_scores,
)


def planted(a: float, b: float, pairs: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    logits = rng.normal(-1, 2, pairs).astype(np.float16)
    labels = rng.random(pairs) < 1 / (1 + np.exp(-(a * logits.astype(float) + b)))
    return logits, labels


def counted(logits: np.ndarray, labels: np.ndarray) -> LogitCounts:
    counts = LogitCounts()
    for part in np.array_split(np.arange(len(logits)), 3):
        counts.add(logits[part], labels[part])
    return counts


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.5, 1.2), (2.0, -1.0)])
def test_platt_equals_unpenalised_logistic_regression(a: float, b: float) -> None:
    logits, labels = planted(a, b)
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(logits.astype(float)[:, None], labels)
    fitted = fit_platt(counted(logits, labels))
    assert fitted.a == pytest.approx(reference.coef_.item(), abs=2e-3)
    assert fitted.b == pytest.approx(reference.intercept_.item(), abs=2e-3)


def test_losses_from_counts_equal_those_from_pairs() -> None:
    logits, labels = planted(1.0, 0.0, 500)
    platt = Platt(0.8, -0.1)
    p = 1 / (1 + np.exp(-(0.8 * logits.astype(float) - 0.1)))
    counts = counted(logits, labels)
    assert log_loss(counts, platt) == pytest.approx(reference_log_loss(labels, p), rel=1e-9)
    edges = np.minimum((p * 15).astype(int), 14)
    gaps = [abs(p[edges == k].mean() - labels[edges == k].mean()) * (edges == k).mean() for k in np.unique(edges)]
    assert expected_calibration_error(counts, platt) == pytest.approx(sum(gaps), rel=1e-9)


@pytest.mark.parametrize("labels", [[], [True, True], [False]])
def test_nothing_to_learn_from_changes_nothing(labels: list[bool]) -> None:
    counts = LogitCounts()
    counts.add(np.linspace(-1, 1, len(labels)).astype(np.float16), np.array(labels, bool))
    assert fit_platt(counts) == Platt(1.0, 0.0)


def test_separable_and_reversed_scores_stay_finite_and_in_order() -> None:
    logits = np.array([-4, -3, 3, 4], np.float16)
    for labels in ([False, False, True, True], [True, True, False, False]):
        fitted = fit_platt(counted(logits, np.array(labels)))
        assert np.isfinite([fitted.a, fitted.b]).all()
        assert fitted.a > 0


def test_calibration_round_trip_and_low_confidence_without_the_root() -> None:
    calibration = Calibration({"MF": Platt(2.0, 0.5), "BP": Platt()}, {"MF": 0.5, "BP": None})
    assert Calibration.from_json({**calibration.to_json(), "more": 1}) == calibration
    aspects, terms = np.array(["MF", "BP", "MF"]), np.array(["root", "x", "y"])
    probabilities = calibration.probabilities(np.array([[5, 1, -3], [5, 1, 3]], np.float32), aspects)
    assert probabilities[0, 0] == pytest.approx(1 / (1 + np.exp(-10.5)))
    uncertain = calibration.low_confidence(probabilities, aspects, terms, frozenset({"root"}))
    assert uncertain["MF"].tolist() == [True, False]
    assert uncertain["BP"].tolist() == [False, False]


def test_top_scores_of_no_terms_are_zero() -> None:
    assert top_scores(np.zeros((2, 0))).tolist() == [0, 0]
