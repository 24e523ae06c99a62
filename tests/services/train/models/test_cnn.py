from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import sparse
from sklearn.metrics import average_precision_score, roc_auc_score

from services.train.data.demo_proteins import DemoProtein, Odds, make_families, make_member
from services.train.models.base import TrainingData
from services.train.models.cnn import CnnFitter, disturb, start_from_exemplars
from shared.config.cnn import CnnConfig
from shared.models.features import Features
from shared.nn.cnn import MASK, CnnModel, CnnNetwork, tokens_of
from tests.fakes.level1_run import QUICK, fit_context
from tests.fakes.ontologies import make_ontology

TRYPSIN = "GO:0004252"
TRAIN, TEST = 180, 60


def data_of(proteins: list[DemoProtein]) -> TrainingData:
    """One MF term below its root: the protein carries a planted trypsin site."""
    ontology = make_ontology([[], [0]], [0, 0])
    labels = np.array([[1.0, TRYPSIN in protein.sites] for protein in proteins], np.float32)
    count = len(proteins)
    sequences = [protein.sequence for protein in proteins]
    return TrainingData(
        features=Features([str(i) for i in range(count)], sequences, {}, np.zeros(count, np.int64), None),
        terms=ontology.terms,
        aspects=np.zeros(2, np.int8),
        labels=sparse.csr_array(labels),
        annotated=np.tile([True, False, False], (count, 1)),
        folds=np.zeros(count, np.int64),
        clusters=np.arange(count),
        ontology=ontology,
        information=np.ones(2, np.float32),
    )


@pytest.fixture(scope="module")
def proteins() -> list[DemoProtein]:
    """Members of families, half of which carry the site."""
    rng, odds = np.random.default_rng(8), Odds(eligible_family=0.8, planted=0.6, broken=0.1)
    families = make_families(24, odds, rng)
    return [make_member(i % 24, families[i % 24], odds, rng) for i in range(TRAIN + TEST)]


@pytest.fixture(scope="module")
def model(proteins: list[DemoProtein], tmp_path_factory: pytest.TempPathFactory) -> CnnModel:
    options = CnnConfig(channels=64, kernel=9, epochs=12, batch_size=16)
    config = QUICK.model_copy(update={"cnn": options})
    context = fit_context(tmp_path_factory.mktemp("fit"), config)
    return CnnFitter().fit(data_of(proteins), np.arange(TRAIN), context)


def test_a_motif_is_learned_from_the_sequence_alone(model: CnnModel, proteins: list[DemoProtein]) -> None:
    held_out = np.arange(TRAIN, TRAIN + TEST)
    scores = model.logits(data_of(proteins).features, held_out)[:, 1]
    has = [TRYPSIN in proteins[row].sites for row in held_out]
    assert roc_auc_score(has, scores) > 0.95


def test_occlusion_and_gradients_find_the_planted_residues(model: CnnModel, proteins: list[DemoProtein]) -> None:
    occluded, integrated = [], []
    for protein in proteins[TRAIN:]:
        sequence, sites = protein.sequence, protein.sites.get(TRYPSIN)
        embedded = model.embed_tokens(sequence)[None]
        score = float(model.forward_embedded(embedded)[0, 1])
        if sites is None or score <= 0:
            continue
        truth = np.zeros(len(sequence))
        truth[list(sites)] = 1
        masked = model.masked_group_logits(sequence, [[place] for place in range(len(sequence))])[:, 1]
        occluded.append(average_precision_score(truth, score - masked.numpy()))
        baseline = model.mean_residue().expand_as(embedded)
        steps = (torch.arange(32) + 0.5)[:, None, None] / 32
        path = (baseline + steps * (embedded - baseline)).requires_grad_()
        (gradient,) = torch.autograd.grad(model.forward_embedded(path)[:, 1].mean(), path)
        integrated.append(average_precision_score(truth, ((embedded - baseline) * gradient.sum(0)).sum((0, 2)).numpy()))
    assert len(occluded) > 10
    assert np.mean(occluded) > 0.85
    assert np.mean(integrated) > 0.85


def test_training_proteins_lose_a_bounded_share_of_residues_to_the_mask() -> None:
    options, generator = CnnConfig(max_mask=0.3, max_length=100), np.random.default_rng(0)
    tokens = np.arange(500) % 20
    shares, starts = [], set()
    for _ in range(300):
        seen = disturb(tokens, options, generator)
        assert len(seen) == 100
        kept = seen != MASK
        start = (seen[kept][0] - np.flatnonzero(kept)[0]) % 20
        np.testing.assert_array_equal(seen[kept], ((np.arange(100) + start) % 20)[kept])
        shares.append(1 - kept.mean())
        starts.add(int(start))
    assert len(starts) == 20
    assert 0.12 < np.mean(shares) < 0.18
    assert 0.25 < max(shares) < 0.5
    assert (tokens == np.arange(500) % 20).all()


def test_short_proteins_are_not_cropped() -> None:
    generator = np.random.default_rng(0)
    assert len(disturb(tokens_of("MKT"), CnnConfig(), generator)) == 3


def test_filters_start_from_windows_of_the_fitted_proteins() -> None:
    network = CnnNetwork(["MF"], channels=40, kernel=9, layers=1)
    with torch.no_grad():
        for bank in network.filters:
            bank.weight.zero_()
    start_from_exemplars(network, ["MKTAYIAKQRGKSLEDNW", "ACDEF"], 0.5, np.random.default_rng(0))
    for bank in network.filters:
        found = {"".join("ACDEFGHIKLMNPQRSTVWY"[place] for place in window.argmax(0)) for window in bank.weight}
        assert len(found) > 1
        assert all(window in "MKTAYIAKQRGKSLEDNW" for window in found)


def test_proteins_shorter_than_a_filter_leave_it_as_it_was() -> None:
    network = CnnNetwork(["MF"], channels=8, kernel=31, layers=1)
    before = [bank.weight.clone() for bank in network.filters]
    start_from_exemplars(network, ["MKT", "ACDEF"], 0.5, np.random.default_rng(0))
    assert all(torch.equal(bank.weight, weight) for bank, weight in zip(network.filters, before, strict=True))


def test_unannotated_proteins_alone_change_nothing_in_the_heads(proteins: list[DemoProtein], tmp_path: Path) -> None:
    data = replace(data_of(proteins), annotated=np.zeros((len(proteins), 3), bool))
    config = QUICK.model_copy(update={"cnn": CnnConfig(channels=8, kernel=3, epochs=1)})
    fitted = CnnFitter().fit(data, np.arange(40), fit_context(tmp_path, config))
    logits = fitted.logits(data.features, np.arange(5))
    assert (logits == logits[0]).all()


def test_an_even_filter_is_refused() -> None:
    with pytest.raises(ValidationError, match="odd"):
        CnnConfig(kernel=10)
