from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from services.xai_worker.explainers.occlusion import Occlusion
from services.xai_worker.gates.concentration import complexity, specificity
from services.xai_worker.gates.faithfulness import BUDGET, RandomMasks, faithfulness, judged
from services.xai_worker.gates.sites import shifted_precisions, site_enrichment
from services.xai_worker.gates.stability import SIMILAR, stability, substituted
from tests.fakes.paths import LinearPath, linear_path

SEQUENCE = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVK"


def path_of(sequence: str = SEQUENCE) -> LinearPath:
    path = linear_path(length=len(sequence), seed=5)
    path.embedded = path.embed(sequence)[0]
    return path


def test_occlusion_of_an_additive_model_is_as_faithful_as_can_be_and_its_reverse_is_not() -> None:
    path = path_of()
    masks = RandomMasks.of(SEQUENCE, path.covered)
    random = masks.scores(path)
    values = Occlusion().attribute(path, lambda _: None)[0].values
    good, bad = faithfulness(path, values, 0, masks, random), faithfulness(path, -values, 0, masks, random)
    assert good.passed
    assert good.p == pytest.approx(1 / 101)
    assert good.low > 0
    assert not bad.passed
    assert bad.p > 0.9
    assert bad.high < 0
    assert [point.masked for point in good.curve] == [1, 3, 9]
    assert good.curve[-1].masked == int(np.ceil(BUDGET * len(SEQUENCE)))
    assert all(point.random_low <= point.random_mean <= point.random_high for point in good.curve)


def test_random_orders_belong_to_the_protein_and_leave_out_what_is_not_covered() -> None:
    covered = np.ones(len(SEQUENCE), bool)
    covered[10:20] = False
    masks = RandomMasks.of(SEQUENCE, covered)
    assert masks == RandomMasks.of(SEQUENCE, covered)
    assert masks != RandomMasks.of(SEQUENCE[::-1], covered)
    for order in masks.groups:
        assert not set(order[-1]) & set(range(10, 20))
        assert all(set(small) < set(large) for small, large in pairwise(order))


def test_a_random_explanation_passes_as_rarely_as_the_level_says() -> None:
    """Calibration: explanation and random orders are exchangeable, so p <= 0.05 happens in at most 5 %."""
    rng = np.random.default_rng(0)
    p = [judged(draw[0], draw[1:], (1, 2, 3)).p for draw in rng.normal(size=(400, 101, 3))]
    assert binomtest(sum(value <= 0.05 for value in p), len(p), 0.05, "greater").pvalue > 0.01
    assert 0.4 < np.mean(p) < 0.6


def test_substitutions_are_conservative_and_of_the_lower_half() -> None:
    values = np.arange(len(SEQUENCE), dtype=float)[None]
    changed, count = substituted(SEQUENCE, values, 0)
    places = [i for i, (a, b) in enumerate(zip(SEQUENCE, changed, strict=True)) if a != b]
    assert len(places) == count == 3
    assert max(places) < len(SEQUENCE) / 2
    assert all(changed[i] in SIMILAR[SEQUENCE[i]] for i in places)
    assert substituted(SEQUENCE, values, 0)[0] == changed
    assert substituted(SEQUENCE, values, 1)[0] != changed
    assert SIMILAR["K"] == "EQR"
    assert "C" not in SIMILAR


def test_stability_is_full_for_equal_and_gone_for_opposite_explanations() -> None:
    values = np.random.default_rng(1).normal(size=(2, 40))
    same, reversed_ = stability(values, [np.stack([values[0], -values[1]])], 2)
    assert (same.spearman, same.jaccard, same.passed) == (pytest.approx(1.0), 1.0, True)
    assert (reversed_.spearman, reversed_.passed) == (pytest.approx(-1.0), False)


def test_complexity_counts_the_residues_that_speak() -> None:
    assert complexity(np.ones(50)).effective_residues == pytest.approx(50)
    assert complexity(np.ones(50)).gini == pytest.approx(0.0, abs=1e-9)
    one = np.zeros(50)
    one[3] = -2.0
    assert complexity(one).effective_residues == pytest.approx(1)
    assert complexity(one).gini == pytest.approx(0.98)
    assert complexity(np.array([np.nan, 1.0, 1.0])).residues == 2


def test_specificity_names_the_most_similar_unrelated_term() -> None:
    values = np.arange(10.0)
    gate = specificity(values, {"GO:1": -values, "GO:2": 2 * values})
    assert gate is not None
    assert (gate.term, gate.spearman, gate.compared, gate.passed) == ("GO:2", pytest.approx(1.0), 2, False)
    assert specificity(values, {}) is None


@given(seed=st.integers(0, 999), length=st.integers(5, 60), ties=st.booleans())
def test_site_figures_agree_with_scikit_learn(seed: int, length: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 4, length).astype(float) if ties else rng.normal(size=length)
    positions = set(rng.choice(length, 3, replace=False).tolist())
    truth = np.isin(np.arange(length), list(positions))
    gate = site_enrichment(values, {p + 1 for p in positions})
    assert gate.average_precision == pytest.approx(average_precision_score(truth, values), rel=1e-5)
    assert gate.auroc == pytest.approx(roc_auc_score(truth, values), rel=1e-5)
    turned = shifted_precisions(values, truth)
    assert turned[2] == pytest.approx(average_precision_score(np.roll(truth, -2), values))


def test_without_a_known_site_the_gate_says_unknown() -> None:
    gate = site_enrichment(np.arange(9.0), ())
    assert (gate.status, gate.passed, gate.p) == ("unknown", None, None)


def test_a_smooth_explanation_is_not_called_significant_by_its_smoothness() -> None:
    """Runs of sites and smooth values: a plain permutation would find far more than 5 % of these significant."""
    rng = np.random.default_rng(4)
    passed = []
    for _ in range(200):
        values = np.convolve(rng.normal(size=160), np.ones(12), "valid")
        start = int(rng.integers(1, 120))
        passed.append(site_enrichment(values, set(range(start, start + 12))).passed)
    assert binomtest(sum(bool(p) for p in passed), len(passed), 0.05, "greater").pvalue > 0.01


def test_sites_at_the_top_pass() -> None:
    values = np.zeros(150)
    values[[20, 57, 90]] = 1.0
    gate = site_enrichment(values, {21, 58, 91})
    assert gate.passed
    assert gate.average_precision == 1.0
    assert gate.fold == pytest.approx(50)


def test_a_very_long_protein_has_a_bounded_null() -> None:
    values = np.random.default_rng(0).normal(size=9000)
    gate = site_enrichment(values, {int(np.argmax(values)) + 1})
    assert gate.shifts == 999
    assert gate.average_precision == 1.0
    assert gate.passed
