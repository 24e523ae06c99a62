"""The bounded descent against scikit-learn and against the optimality condition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from services.train.models import logreg
from services.train.models.logreg import PrincipalBasis, _Held, sigmoid_in_place
from shared.config.level1 import LogregConfig

EXACT = LogregConfig(l2=1e-3, iterations=2000, tolerance=1e-6)


def problem(rows: int = 400, columns: int = 12, terms: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of different scales, and terms from common to rare."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) + rng.normal(size=columns)
    signal = inputs @ rng.normal(size=(columns, terms)) * 0.2
    rare = np.quantile(signal, np.linspace(0.3, 0.97, terms), axis=0).diagonal()
    labels = rng.random((rows, terms)) < expit(2 * (signal - rare))
    return inputs.astype(np.float32), labels.astype(np.float32)


def probabilities(inputs: np.ndarray, labels: np.ndarray, options: LogregConfig) -> np.ndarray:
    weights, bias = PrincipalBasis.of(inputs, options.components).solve(labels, options)
    return expit(inputs @ weights + bias)


def test_equals_scikit_learn() -> None:
    inputs, labels = problem()
    ours = probabilities(inputs, labels, EXACT)
    for term in range(labels.shape[1]):
        oracle = LogisticRegression(C=1 / (EXACT.l2 * len(inputs)), tol=1e-10, max_iter=10_000).fit(
            inputs.astype(np.float64), labels[:, term]
        )
        assert np.abs(ours[:, term] - oracle.predict_proba(inputs.astype(np.float64))[:, 1]).max() <= 1e-3


def test_the_gradient_of_the_objective_vanishes() -> None:
    inputs, labels = problem(seed=1)
    weights, bias = PrincipalBasis.of(inputs, 1024).solve(labels, EXACT)
    residual = expit(inputs.astype(np.float64) @ weights + bias) - labels
    assert np.abs(residual.mean(0)).max() < 1e-4
    assert np.abs(inputs.T @ residual / len(inputs) + EXACT.l2 * weights).max() < 1e-3


def test_terms_are_solved_independently_of_each_other() -> None:
    inputs, labels = problem(seed=2)
    together, alone = probabilities(inputs, labels, EXACT), probabilities(inputs, labels[:, 7:8], EXACT)
    np.testing.assert_allclose(together[:, 7:8], alone, atol=2e-4)


def test_fewer_components_use_the_directions_of_largest_variance() -> None:
    rng = np.random.default_rng(3)
    wide = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 30)) * 5 + 1e-3 * rng.normal(size=(300, 30))
    labels = (wide[:, :3] > 0).astype(np.float32)
    options = EXACT.model_copy(update={"components": 2})
    np.testing.assert_allclose(
        probabilities(wide.astype(np.float32), labels, options),
        probabilities(wide.astype(np.float32), labels, EXACT),
        atol=0.02,
    )


@pytest.mark.parametrize("extreme", [-1e30, -100.0, 0.0, 100.0, 1e30])
def test_the_sigmoid_does_not_overflow(extreme: float) -> None:
    np.testing.assert_allclose(sigmoid_in_place(np.array([extreme], np.float32)), expit(extreme), atol=1e-6)


def test_fewer_rows_than_columns_give_the_same_model() -> None:
    inputs, labels = problem(rows=60, columns=150, terms=6, seed=4)
    labels = labels[:, labels.mean(0) < 1]
    ours = probabilities(inputs, labels, EXACT)
    for term in range(labels.shape[1]):
        oracle = LogisticRegression(C=1 / (EXACT.l2 * len(inputs)), tol=1e-10, max_iter=10_000).fit(
            inputs.astype(np.float64), labels[:, term]
        )
        assert np.abs(ours[:, term] - oracle.predict_proba(inputs.astype(np.float64))[:, 1]).max() <= 1e-3


def test_equal_rows_have_no_direction() -> None:
    inputs, labels = np.ones((8, 20), np.float32), np.tile(np.float32([[1], [0]]), (4, 1))
    assert probabilities(inputs, labels, EXACT) == pytest.approx(0.5)


def test_steps_take_their_rows_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, labels = problem(rows=900)
    whole = probabilities(inputs, labels, EXACT)
    monkeypatch.setattr(logreg, "ROWS_PER_BLOCK", 64)
    basis = PrincipalBasis.fit(_Held(inputs), 1024, tmp_path / "components.npy")
    assert isinstance(basis.inputs, np.memmap)
    steps: list[None] = []
    weights, bias = basis.solve(sparse.csr_array(labels), EXACT, after_step=lambda: steps.append(None))
    np.testing.assert_allclose(expit(inputs @ weights + bias), whole, atol=1e-4)
    assert 1 < len(steps) <= EXACT.iterations


def test_rows_are_asked_for_block_by_block() -> None:
    inputs, labels = problem(rows=900)

    class Streamed:
        shape = inputs.shape
        longest = 0

        def blocks(self):
            for start in range(0, len(inputs), 64):
                self.longest = max(self.longest, len(inputs[start : start + 64]))
                yield slice(start, min(start + 64, len(inputs))), inputs[start : start + 64]

    rows = Streamed()
    streamed = PrincipalBasis.fit(rows, 1024)
    assert rows.longest == 64
    whole = PrincipalBasis.of(inputs, 1024)
    np.testing.assert_allclose(streamed.variance, whole.variance, rtol=1e-3, atol=1e-5)
    weights, bias = streamed.solve(labels, EXACT)
    found = expit(inputs @ weights + bias)
    np.testing.assert_allclose(found, probabilities(inputs, labels, EXACT), atol=1e-4)
