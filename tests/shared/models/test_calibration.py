"""Calibration against scikit-learn and against planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as reference_log_loss

from shared.errors import IntegrityError
from shared.models.calibration import (
    BetaCalibration,
    Calibration,
    LogitCounts,
    expected_calibration_error,
    fit_beta,
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
def test_it_equals_unpenalised_logistic_regression_on_both_logarithms(a: float, b: float) -> None:
    logits, labels = planted(a, b)
    s = 1 / (1 + np.exp(-logits.astype(float)))
    design = np.stack([np.log(s), -np.log1p(-s)], axis=1)
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(design, labels)
    fitted = fit_beta(counted(logits, labels))
    # The pull towards the identity is worth one pair of 20,000.
    assert [fitted.a, fitted.b] == pytest.approx(reference.coef_[0].tolist(), abs=0.05)
    assert fitted.c == pytest.approx(reference.intercept_.item(), abs=0.05)
    best = reference_log_loss(labels, reference.predict_proba(design)[:, 1])
    assert log_loss(counted(logits, labels), fitted) == pytest.approx(best, abs=1e-5)


def test_a_slope_of_its_own_on_each_side_is_found() -> None:
    rng = np.random.default_rng(5)
    truth = BetaCalibration(0.6, 1.5, -0.3)
    logits = rng.normal(0, 2, 200_000).astype(np.float16)
    labels = rng.random(len(logits)) < truth.probabilities(logits)
    fitted = fit_beta(counted(logits, labels))
    assert [fitted.a, fitted.b, fitted.c] == pytest.approx([truth.a, truth.b, truth.c], abs=0.06)


@given(st.floats(0.05, 5), st.floats(0.05, 5), st.floats(-4, 4), st.lists(st.floats(-14, 14), min_size=1))
def test_calibration_keeps_the_order_and_can_be_undone(a: float, b: float, c: float, logits: list[float]) -> None:
    beta, ordered = BetaCalibration(a, b, c), np.unique(np.round(logits, 3))
    calibrated = beta.calibrated(ordered)
    assert (np.diff(calibrated) > 0).all()
    assert beta.uncalibrated(calibrated) == pytest.approx(ordered, abs=1e-6)


def test_losses_from_counts_equal_those_from_pairs() -> None:
    logits, labels = planted(1.0, 0.0, 500)
    beta = BetaCalibration(0.8, 0.8, -0.1)
    p = 1 / (1 + np.exp(-(0.8 * logits.astype(float) - 0.1)))
    counts = counted(logits, labels)
    assert log_loss(counts, beta) == pytest.approx(reference_log_loss(labels, p), rel=1e-9)
    edges = np.minimum((p * 15).astype(int), 14)
    gaps = [abs(p[edges == k].mean() - labels[edges == k].mean()) * (edges == k).mean() for k in np.unique(edges)]
    assert expected_calibration_error(counts, beta) == pytest.approx(sum(gaps), rel=1e-9)


@pytest.mark.parametrize("labels", [[], [True, True], [False]])
def test_nothing_to_learn_from_changes_nothing(labels: list[bool]) -> None:
    counts = LogitCounts()
    counts.add(np.linspace(-1, 1, len(labels)).astype(np.float16), np.array(labels, bool))
    assert fit_beta(counts) == BetaCalibration()


def test_separable_and_reversed_scores_stay_finite_and_in_order() -> None:
    logits = np.array([-4, -3, 3, 4], np.float16)
    for labels in ([False, False, True, True], [True, True, False, False]):
        fitted = fit_beta(counted(logits, np.array(labels)))
        assert np.isfinite([fitted.a, fitted.b, fitted.c]).all()
        assert min(fitted.a, fitted.b) > 0


def test_calibration_round_trip_and_low_confidence_without_the_root() -> None:
    calibration = Calibration({"MF": BetaCalibration(2.0, 2.0, 0.5), "BP": BetaCalibration()}, {"MF": 0.5, "BP": None})
    assert Calibration.from_json({**calibration.to_json(), "more": 1}) == calibration
    aspects, terms = np.array(["MF", "BP", "MF"]), np.array(["root", "x", "y"])
    probabilities = calibration.probabilities(np.array([[5, 1, -3], [5, 1, 3]], np.float32), aspects)
    assert probabilities[0, 0] == pytest.approx(1 / (1 + np.exp(-10.5)))
    uncertain = calibration.low_confidence(probabilities, aspects, terms, frozenset({"root"}))
    assert uncertain["MF"].tolist() == [True, False]
    assert uncertain["BP"].tolist() == [False, False]


def test_the_record_of_another_kind_of_calibration_is_refused() -> None:
    with pytest.raises(IntegrityError, match="has a, b, not a, b, c"):
        Calibration.from_json({"calibration": {"MF": {"a": 1.0, "b": 0.0}}, "low_conf_threshold": {}})


def test_top_scores_of_no_terms_are_zero() -> None:
    assert top_scores(np.zeros((2, 0))).tolist() == [0, 0]
