"""The boosted trees by Py-Boost: its API as 0.5.2 has it, the hand-over to LightGBM's text, and errors without a GPU.

The stand-in has Py-Boost's constructor, attributes and inference format, and grows real (small) trees; the package
itself runs on a GPU only.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lightgbm
import numpy as np
import pytest

from services.train.models.gbdt import GbdtFitter
from services.train.models.pyboost import lightgbm_text
from shared.errors import ConfigError, MissingInput
from shared.models.gbdt import Gbdt
from tests.fakes.level1_run import QUICK, Level1Run, fit_context, training_data

PY_BOOST = QUICK.model_copy(update={"gbdt": QUICK.gbdt.model_copy(update={"library": "py_boost", "leaves": 4})})


class GradientBoosting:
    """Py-Boost 0.5.2's names; grows depthwise trees of squared-gradient splits at medians."""

    def __init__(
        self, loss: str, metric: None = None, ntrees: int = 100, lr: float = 0.05, min_gain_to_split: float = 0,
        lambda_l2: float = 1, gd_steps: int = 1, max_depth: int = 6, min_data_in_leaf: int = 10, colsample: float = 1.0,
        subsample: float = 1.0, target_splitter: str = "Single", multioutput_sketch: None = None, use_hess: bool = True,
        quantization: str = "Quantile", quant_sample: int = 2000000, max_bin: int = 256, min_data_in_bin: int = 3,
        es: int = 100, seed: int = 42, verbose: int = 10, callbacks: None = None, debug: bool = False,
    ) -> None:  # fmt: skip
        assert loss == "bce"
        assert es == 0  # without evaluation sets there is nothing to stop on
        self.ntrees, self.lr, self.l2, self.depth, self.least = ntrees, lr, lambda_l2, max_depth, min_data_in_leaf
        self.models: list[Any] = []
        self.base_score: Any = None
        self.on_device = True

    def fit(self, x: np.ndarray, y: np.ndarray, sample_weight: np.ndarray, eval_sets: None = None) -> GradientBoosting:
        assert y.shape == sample_weight.shape == (len(x), 1)
        mean = np.clip(y.mean(axis=0), 1e-7, 1 - 1e-7)
        self.base_score = np.log(mean / (1 - mean))
        score = np.full(len(x), self.base_score[0])
        for _ in range(self.ntrees):
            share = 1 / (1 + np.exp(-score))
            tree, added = self._grow(
                x, (share - y[:, 0]) * sample_weight[:, 0], (share * (1 - share)) * sample_weight[:, 0]
            )
            self.models.append(tree)
            score = score + added
        return self

    def to_cpu(self) -> None:
        self.on_device = False

    def predict_raw(self, x: np.ndarray) -> np.ndarray:
        """Py-Boost's inference rule: right where the value is above the threshold; negative children are leaves."""
        score = np.full(len(x), self.base_score[0])
        for tree in self.models:
            for row, values in enumerate(x):
                node = 0
                while node >= 0:
                    feature, threshold, left, right = tree.test_format[4 * node : 4 * node + 4]
                    node = int(right if values[abs(int(feature)) - 1] > threshold else left)
                score[row] += tree.values[-node - 1, 0]
        return score

    def _grow(self, x: np.ndarray, grad: np.ndarray, hess: np.ndarray) -> tuple[Any, np.ndarray]:
        nodes: list[list[float]] = []
        values: list[float] = []
        added = np.zeros(len(x))

        def leaf(rows: np.ndarray) -> float:
            values.append(float(-self.lr * grad[rows].sum() / (hess[rows].sum() + self.l2)))
            added[rows] = values[-1]
            return -float(len(values))

        def grow(rows: np.ndarray, depth: int) -> float:
            gains = [self._gain(x, grad, hess, rows, feature) for feature in range(x.shape[1])]
            best = int(np.argmax([gain for gain, _ in gains]))
            if depth == self.depth or gains[best][0] <= 0:
                return leaf(rows)
            place = len(nodes)
            nodes.append([(best + 1) * (-1.0) ** place, gains[best][1], 0.0, 0.0])
            above = x[rows, best] > gains[best][1]
            nodes[place][2], nodes[place][3] = grow(rows[~above], depth + 1), grow(rows[above], depth + 1)
            return float(place)

        if grow(np.arange(len(x)), 0) == -1.0:
            nodes.append([1.0, 0.0, -1.0, -1.0])  # a single leaf is a pseudo split there
        table = np.asarray(nodes, np.float32).ravel()
        tree = SimpleNamespace(
            ngroups=1,
            nout=1,
            test_format=table,
            test_format_offsets=np.zeros(1, np.int32),
            values=np.asarray(values, np.float32)[:, None],
            group_index=np.zeros(1, np.uint64),
        )
        return tree, added

    def _gain(
        self, x: np.ndarray, grad: np.ndarray, hess: np.ndarray, rows: np.ndarray, feature: int
    ) -> tuple[float, float]:
        threshold = float(np.float32(np.median(x[rows, feature])))
        above = x[rows, feature] > threshold
        if min(above.sum(), (~above).sum()) < self.least:
            return 0.0, threshold
        parts = (rows[above], rows[~above], rows)
        gain = [grad[part].sum() ** 2 / (hess[part].sum() + self.l2) for part in parts]
        return float(gain[0] + gain[1] - gain[2]), threshold


@pytest.fixture
def py_boost(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("py_boost")
    module.GradientBoosting = GradientBoosting  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "py_boost", module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    return training_data(Level1Run(proteins=120, tests=5).write(tmp_path_factory.mktemp("pyboost")))


def on_a_gpu(folder: Path):
    return replace(fit_context(folder, PY_BOOST, fold=1), device="cuda:0")


@pytest.mark.parametrize(("trees", "least"), [(1, 5), (7, 5), (2, 10**6)])
def test_lightgbm_reads_the_trees_and_scores_alike(trees: int, least: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0.3).astype(np.float32)[:, None]
    model = GradientBoosting("bce", ntrees=trees, lr=0.3, max_depth=3, min_data_in_leaf=least, es=0)
    model.fit(x, y, np.ones_like(y))
    booster = lightgbm.Booster(model_str=lightgbm_text(model, ["a", "b", "c", "d"]).decode())
    assert booster.num_trees() == trees
    assert booster.feature_name() == ["a", "b", "c", "d"]
    for rows in (x, np.float32(x[:5]), x + 100, x - 100):
        np.testing.assert_allclose(booster.predict(rows, raw_score=True), model.predict_raw(rows), rtol=1e-6, atol=1e-6)
    on_border = x.copy()
    on_border[:, 0] = model.models[0].test_format[1]
    np.testing.assert_allclose(booster.predict(on_border, raw_score=True), model.predict_raw(on_border), atol=1e-6)


def test_the_same_protocol_and_it_learns(py_boost: ModuleType, data, tmp_path: Path) -> None:
    rows = np.flatnonzero((data.folds >= 0) & (data.folds != 1))
    model = GbdtFitter().fit(data, rows, on_a_gpu(tmp_path))
    copy = Gbdt.restore(model.architecture(), model.arrays())
    held_out = np.flatnonzero(data.folds == 1)
    scores = model.logits(data.features, held_out)
    np.testing.assert_array_equal(copy.logits(data.features, held_out), scores)
    assert np.isfinite(scores).all()
    labels, known = data.labels[held_out].toarray() > 0, data.annotated[held_out][:, data.aspects]
    known &= model.learnt
    assert scores[known & labels].mean() > scores[known & ~labels].mean() + 0.5


def test_a_run_on_the_cpu_is_told_what_to_do(py_boost: ModuleType, data, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"on cpu.*--device cuda.*library=lightgbm"):
        GbdtFitter().fit(data, np.flatnonzero(data.folds >= 0), fit_context(tmp_path, PY_BOOST, fold=1))


def test_without_the_package_or_its_gpu_the_error_says_what_to_install(
    py_boost: ModuleType, monkeypatch: pytest.MonkeyPatch, data, tmp_path: Path
) -> None:
    rows = np.flatnonzero(data.folds >= 0)
    del py_boost.GradientBoosting
    with pytest.raises(MissingInput, match=r"no Nvidia GPU.*nvidia-smi.*library=lightgbm"):
        GbdtFitter().fit(data, rows, on_a_gpu(tmp_path))
    monkeypatch.setitem(sys.modules, "py_boost", None)
    with pytest.raises(MissingInput, match=r"cannot be imported.*py-boost==0\.5\.2.*library=lightgbm"):
        GbdtFitter().fit(data, rows, on_a_gpu(tmp_path))
