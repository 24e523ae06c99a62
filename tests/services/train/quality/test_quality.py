"""Intervals, groups and calibration against their definitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from services.train.evaluation import ProteinCurves, evaluate, protein_curves
from services.train.quality.bootstrap import difference, interval, resamples
from services.train.quality.groups import bands, highest_identity, knowledge
from services.train.quality.reliability import floor_share, reliability
from services.train.quality.run import changes
from shared.models.features import Hits
from shared.ontology import ASPECTS, Ontology, propagate_labels, propagate_max
from tests.fakes.ontologies import ontologies


def random_case(ontology: Ontology, seed: int) -> tuple[sparse.csr_array, sparse.csr_array, np.ndarray]:
    """Propagated labels, scores that know something of them, and bits."""
    rng = np.random.default_rng(seed)
    truth = propagate_labels(sparse.csr_array(rng.random((30, len(ontology))) < 0.2), ontology)
    noisy = np.clip(0.5 * truth.toarray() + 0.5 * rng.random(truth.shape), 0, 1) * (rng.random(truth.shape) < 0.7)
    return truth, sparse.csr_array(noisy.astype(np.float32)), rng.gamma(1.0, 2.0, len(ontology))


@settings(max_examples=25, deadline=None)
@given(ontologies(), st.integers(0, 1000))
def test_protein_curves_add_up_to_the_evaluations_fmax(ontology: Ontology, seed: int) -> None:
    truth, scores, bits = random_case(ontology, seed)
    whole = evaluate(scores, truth, ontology, bits)
    curves = protein_curves(scores, truth, ontology, bits)
    for aspect in ASPECTS:
        if whole[aspect].n:
            assert curves[aspect].fmax()[0] == pytest.approx(whole[aspect].fmax_w, abs=1e-12)
            chosen = np.random.default_rng(seed).random(30) < 0.5
            part = evaluate(scores[chosen], truth[chosen], ontology, bits)[aspect]
            if part.n:
                assert curves[aspect].of(chosen).fmax()[0] == pytest.approx(part.fmax_w, abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(ontologies(), st.integers(0, 1000))
def test_a_resample_is_an_evaluation_of_the_drawn_proteins(ontology: Ontology, seed: int) -> None:
    truth, scores, bits = random_case(ontology, seed)
    curves = protein_curves(scores, truth, ontology, bits)
    for aspect in ASPECTS:
        own = curves[aspect]
        if not len(own.rows):
            continue
        drawn = resamples(len(own.rows), 3, seed)
        assert (drawn.sum(axis=1) == len(own.rows)).all()
        rows = np.repeat(own.rows, drawn[0].astype(int))
        again = evaluate(scores[rows], truth[rows], ontology, bits)[aspect]
        assert own.fmax(drawn)[0] == pytest.approx(again.fmax_w, abs=1e-12)


def test_a_better_model_is_told_from_chance_and_an_equal_one_is_not() -> None:
    rng = np.random.default_rng(5)
    rows = np.arange(200)
    strong = np.clip(rng.normal(0.8, 0.1, (200, 3)), 0, 1)
    weak = np.clip(strong - 0.2 + rng.normal(0, 0.05, strong.shape), 0, 1)
    ones = np.ones_like(strong)
    better, worse = ProteinCurves(rows, ones, ones, strong, strong), ProteinCurves(rows, ones, ones, weak, weak)
    drawn = resamples(200, 400)
    gap = difference(better, worse, drawn)
    assert 0 < gap.low <= gap.value <= gap.high
    assert gap.not_above == 0
    same = difference(better, better, drawn)
    assert (same.value, same.low, same.high, same.not_above) == (0, 0, 0, 1)
    found = interval(better, drawn)
    assert found.low < found.value < found.high
    with pytest.raises(ValueError, match="same proteins"):
        difference(better, better.of(rows < 100), drawn)


def test_what_an_ablation_changes_is_its_own_figure_minus_the_full_run_s() -> None:
    rng = np.random.default_rng(6)
    ones = np.ones((60, 3))
    recall = np.clip(rng.normal(0.6, 0.1, ones.shape), 0, 1)
    full = ProteinCurves(np.arange(60), ones, ones, recall, recall)
    less = ProteinCurves(np.arange(60), ones, ones, recall - 0.1, recall - 0.1)
    nobody = full.of(np.zeros(60, bool))
    found = changes({"MF": less, "BP": full, "CC": nobody}, {"MF": full, "BP": full, "CC": nobody}, 200)
    assert found["MF"]["value"] == less.fmax()[0]
    assert found["MF"]["change"]["value"] == pytest.approx(less.fmax()[0] - full.fmax()[0], abs=1e-12)
    assert found["MF"]["change"]["high"] < 0
    assert (found["BP"]["change"]["low"], found["BP"]["change"]["high"]) == (0, 0)
    assert found["CC"] == {"value": None, "change": None}


def test_identity_bands_use_significant_hits_on_fitted_proteins_only() -> None:
    frame = pd.DataFrame(
        [
            (0, 0, 300.0, 0.95),  # on a protein that was not fitted on
            (0, 1, 200.0, 0.45),
            (1, 1, 20.0, 0.99),  # not significant
            (2, 2, 90.0, 0.29),
            (2, 1, 80.0, 0.31),
            (3, 1, 500.0, 1.0),
        ],
        columns=["query", "target", "bits", "fident"],
    ).assign(qcov=1.0, tcov=1.0)
    hits = Hits.from_frame(frame, 5)
    identity = highest_identity(hits, np.full(5, 300), np.array([False, True, True]), residues=10_000_000)
    assert identity.tolist() == pytest.approx([0.45, -1, 0.31, 1.0, -1])
    of = {name: np.flatnonzero(mask).tolist() for name, mask in bands(identity).items()}
    assert of == {
        "no hit": [1, 4],
        "below 30 %": [],
        "30 to 60 %": [0, 2],
        "60 to 90 %": [],
        "above 90 %": [3],
    }


def test_every_target_is_of_one_kind() -> None:
    known = [frozenset(), frozenset({"MF"}), frozenset({"BP"}), frozenset({"MF", "BP"})]
    found = {name: mask.tolist() for name, mask in knowledge("MF", known).items()}
    assert found == {
        "NK": [True, False, False, False],
        "LK": [False, False, True, False],
        "PK": [False, True, False, True],
    }


@settings(max_examples=10, deadline=None)
@given(ontologies(), st.integers(0, 1000))
def test_reliability_bins_give_back_the_error_and_the_brier_score(ontology: Ontology, seed: int) -> None:
    truth, scores, _ = random_case(ontology, seed)
    filled = propagate_max(scores, ontology)
    counted = np.diff(ontology.parent_rows[0]) > 0
    for number, aspect in enumerate(ASPECTS):
        found = reliability(filled, truth, ontology)[aspect]
        own = ontology.aspects == number
        rows = np.flatnonzero(np.asarray(truth[:, own].sum(axis=1)).ravel())
        values = filled[rows][:, np.flatnonzero(own & counted)].toarray().ravel()
        true = truth[rows][:, np.flatnonzero(own & counted)].toarray().ravel()
        kept = values >= 0.05
        assert found.pairs == kept.sum() == sum(size for _, _, size in found.bins)
        if found.pairs:
            assert found.brier == pytest.approx(np.mean((values[kept] - true[kept]) ** 2), abs=1e-6)
            assert sum(share * size for _, share, size in found.bins) == pytest.approx(true[kept].sum())


@settings(max_examples=10, deadline=None)
@given(ontologies(), st.integers(0, 1000))
def test_the_share_of_proteins_with_a_term_leaves_roots_out(ontology: Ontology, seed: int) -> None:
    _, scores, _ = random_case(ontology, seed)
    counted = np.diff(ontology.parent_rows[0]) > 0
    for number, aspect in enumerate(ASPECTS):
        dense = scores.toarray()[:, (ontology.aspects == number) & counted]
        expected = np.mean((dense >= 0.4).any(axis=1)) if dense.shape[1] else 0.0
        assert floor_share(scores, ontology, 0.4)[aspect] == pytest.approx(expected)
