"""Homology vote and KNN against loops that follow the definitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.train.models.base import TrainingData
from services.train.models.homology import HomologyFitter
from services.train.models.knn import KnnFitter
from services.train.models.targets import positives
from services.train.models.taxon import TaxonFitter
from shared.config.level1 import HomologyVoteConfig, KnnConfig, TaxonConfig
from shared.errors import DataError, MissingInput
from shared.models.base import logit
from shared.models.features import Features, Hits
from shared.models.homology_vote import HomologyVote
from shared.nn import nearest as nearest_module
from tests.fakes.level1_run import QUICK, Level1Run, features_of_tests, fit_context, training_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Level1Run(proteins=90, tests=25).write(tmp_path_factory.mktemp("votes"))


@pytest.fixture(scope="module")
def data(folder: Path) -> TrainingData:
    return training_data(folder)


@pytest.fixture(scope="module")
def test_part(folder: Path) -> Features:
    return features_of_tests(folder)


TAXON_WEIGHT = 4.0


def taxon_shares(data: TrainingData, taxon: int, voters: set[int], weight: float = TAXON_WEIGHT) -> np.ndarray:
    """Each term's share among the voters of the taxon, pulled towards its share among all, by the definition."""
    labels = data.labels.toarray()
    shares = []
    for column, aspect in enumerate(data.aspects):
        known = [row for row in voters if data.annotated[row, aspect]]
        prior = np.mean([labels[row, column] for row in known])
        kin = [row for row in known if taxon and data.features.taxa[row] == taxon]
        shares.append((sum(labels[row, column] for row in kin) + weight * prior) / (len(kin) + weight))
    return np.array(shares)


def voted(
    data: TrainingData, taxon: int, weights: dict[int, float], voters: set[int], prior_weight: float = 0.0
) -> np.ndarray:
    """Logits of one query by the definition; `weights` by train row, `voters` may vote."""
    labels = data.labels.toarray()
    reference = sorted(voters)
    priors = taxon_shares(data, taxon, voters)
    scores = []
    for column, aspect in enumerate(data.aspects):
        known = [row for row in reference if data.annotated[row, aspect]]
        prior = priors[column]
        total = sum(weights.get(row, 0.0) for row in known)
        having = sum(weights.get(row, 0.0) * labels[row, column] for row in known)
        scores.append((having + prior_weight * prior) / (total + prior_weight) if total > 0 else prior)
    return logit(np.array(scores))


def hit_weights(hits: Hits, query: int, power: float) -> dict[int, float]:
    chosen = hits.of(query)
    identity = hits.fident[chosen] * np.minimum(hits.qcov[chosen], hits.tcov[chosen])
    return dict(zip(hits.target[chosen].tolist(), (hits.bits[chosen] * identity**power).tolist(), strict=True))


def homology(data: TrainingData, tmp_path: Path, power: float = 0.0, prior_weight: float = 0.0) -> HomologyVote:
    options = HomologyVoteConfig(identity_power=power, prior_weight=prior_weight, taxon_weight=TAXON_WEIGHT)
    config = QUICK.model_copy(update={"homology": options})
    return HomologyFitter().fit(data, np.flatnonzero(data.folds >= 0), fit_context(tmp_path, config))


@pytest.mark.parametrize(("power", "prior_weight"), [(0.0, 0.0), (2.0, 0.0), (0.5, 10.0)])
def test_homology_vote_follows_its_definition(
    data: TrainingData, test_part: Features, tmp_path: Path, power: float, prior_weight: float
) -> None:
    model = homology(data, tmp_path, power, prior_weight)
    fit_rows = set(np.flatnonzero(data.folds >= 0).tolist())
    rows = np.arange(len(test_part))
    expected = [
        voted(data, test_part.taxa[query], hit_weights(test_part.hits, query, power), fit_rows, prior_weight)
        for query in rows
    ]
    np.testing.assert_allclose(model.logits(test_part, rows), expected, atol=2e-3)


def test_homology_out_of_fold_never_uses_the_own_fold(data: TrainingData, tmp_path: Path) -> None:
    model = homology(data, tmp_path)
    rows = np.flatnonzero(data.folds >= 0)[::-1]
    expected = []
    for query in rows:
        voters = set(np.flatnonzero((data.folds >= 0) & (data.folds != data.folds[query])).tolist())
        expected.append(voted(data, data.features.taxa[query], hit_weights(data.features.hits, query, 0.0), voters))
    np.testing.assert_allclose(model.out_of_fold_logits(data.features, rows, data.folds), expected, atol=2e-3)


def test_a_protein_without_hits_gets_its_taxons_priors(data: TrainingData, test_part: Features, tmp_path: Path) -> None:
    rows = np.flatnonzero(data.folds >= 0)
    assert test_part.hits.of(0) == slice(0, 0)
    model = homology(data, tmp_path)
    of_taxon = taxon_shares(data, test_part.taxa[0], set(rows.tolist()))
    np.testing.assert_allclose(model.logits(test_part, np.array([0]))[0], logit(of_taxon), atol=1e-4)
    stateless = replace(test_part, taxa=np.zeros_like(test_part.taxa))
    prior = positives(data, rows) / data.annotated[rows].sum(0)[data.aspects]
    np.testing.assert_allclose(model.logits(stateless, np.array([0]))[0], logit(prior), atol=1e-4)


@pytest.mark.parametrize("out_of_fold", [False, True])
def test_the_taxon_prior_is_its_definition(data: TrainingData, tmp_path: Path, out_of_fold: bool) -> None:
    config = QUICK.model_copy(update={"taxon": TaxonConfig(prior_proteins=3.0)})
    fit_rows = np.flatnonzero(data.folds >= 0)
    model = TaxonFitter().fit(data, fit_rows, fit_context(tmp_path, config))
    rows = fit_rows[::-2] if out_of_fold else np.flatnonzero(data.folds < 0)
    expected = []
    for row in rows:
        voters = set(fit_rows[(data.folds[fit_rows] != data.folds[row]) | (not out_of_fold)].tolist())
        expected.append(logit(taxon_shares(data, data.features.taxa[row], voters, 3.0)))
    found = (
        model.out_of_fold_logits(data.features, rows, data.folds) if out_of_fold else model.logits(data.features, rows)
    )
    assert len(np.unique(data.features.taxa[rows])) > 1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_counted_once_does_not_depend_on_blocks_or_earlier_folds(data: TrainingData, tmp_path: Path) -> None:
    rows = np.flatnonzero(data.folds >= 0)
    other = np.where(data.folds >= 0, (data.folds + np.arange(len(data.folds))) % 3, -1)
    for make in (homology, lambda data, folder: TaxonFitter().fit(data, rows, fit_context(folder, QUICK))):
        used = make(data, tmp_path)
        for folds in (data.folds, other, data.folds):
            whole = make(data, tmp_path).out_of_fold_logits(data.features, rows, folds)
            single = [used.out_of_fold_logits(data.features, rows[i : i + 1], folds)[0] for i in range(len(rows))]
            np.testing.assert_array_equal(single, whole)
            np.testing.assert_array_equal(
                used.logits(data.features, rows[:5]), make(data, tmp_path).logits(data.features, rows[:5])
            )


def test_hits_of_some_queries_are_those_hits(data: TrainingData) -> None:
    hits, rows = data.features.hits, np.array([7, 3, 3, 40])
    some = hits.among(rows)
    assert len(some.indptr) == len(rows) + 1
    for place, row in enumerate(rows):
        for name in ("target", "bits", "fident", "qcov", "tcov"):
            np.testing.assert_array_equal(getattr(some, name)[some.of(place)], getattr(hits, name)[hits.of(row)])
    assert some.queries().tolist() == np.repeat(np.arange(4), np.diff(some.indptr)).tolist()
    assert hits.among(np.zeros(0, np.int64)).indptr.tolist() == [0]


def test_reference_vectors_are_in_a_file(data: TrainingData, tmp_path: Path) -> None:
    model = KnnFitter().fit(data, np.flatnonzero(data.folds >= 0), fit_context(tmp_path, QUICK))
    assert isinstance(model.embeddings, np.memmap)


def test_renumbered_reference_rows_give_the_same_votes(data: TrainingData, test_part: Features, tmp_path: Path) -> None:
    """What the bundle writer does: number the reference proteins 0..n-1, in hits and in `reference.rows`."""
    model = homology(data, tmp_path)
    arrays = model.arrays()
    old = arrays["reference.rows"]
    arrays["reference.rows"] = np.arange(len(old))
    hits = test_part.hits
    kept = np.isin(hits.target, old)
    query = np.repeat(np.arange(len(test_part)), np.diff(hits.indptr))[kept]
    renumbered = Hits(
        np.searchsorted(query, np.arange(len(test_part) + 1)),
        np.searchsorted(old, hits.target[kept]),
        *(getattr(hits, name)[kept] for name in ("bits", "fident", "qcov", "tcov")),
    )
    moved = Features(test_part.ids, test_part.sequences, test_part.dense, test_part.taxa, renumbered)
    rows = np.arange(len(test_part))
    np.testing.assert_array_equal(
        HomologyVote.restore(model.architecture(), arrays).logits(moved, rows), model.logits(test_part, rows)
    )


def test_a_vote_without_a_search_says_so(data: TrainingData, test_part: Features, tmp_path: Path) -> None:
    unsearched = Features(test_part.ids, test_part.sequences, test_part.dense, test_part.taxa, None)
    with pytest.raises(MissingInput, match="no homology search"):
        homology(data, tmp_path).logits(unsearched, np.array([0]))


@pytest.mark.parametrize("block", [7, 4096])
@pytest.mark.parametrize("out_of_fold", [False, True])
def test_knn_is_the_exact_cosine_vote(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, out_of_fold: bool
) -> None:
    monkeypatch.setattr(nearest_module, "REFERENCE_ROWS", block)
    config = QUICK.model_copy(update={"knn": KnnConfig(neighbours=6, temperature=0.2)})
    fit_rows = np.flatnonzero(data.folds >= 0)
    model = KnnFitter().fit(data, fit_rows, fit_context(tmp_path, config))
    queries = fit_rows[::3] if out_of_fold else np.flatnonzero(data.folds < 0)
    vectors = (
        model.embed(model.space, data.features, np.arange(len(data.features))).astype(np.float16).astype(np.float64)
    )
    exact = model.embed(model.space, data.features, queries).astype(np.float64)
    expected = []
    for place, query in enumerate(queries):
        voters = [row for row in fit_rows.tolist() if not out_of_fold or data.folds[row] != data.folds[query]]
        cosine = {row: float(exact[place] @ vectors[row]) for row in voters}
        nearest = sorted(voters, key=lambda row: (-cosine[row], row))[:6]
        weights = {row: float(np.exp((cosine[row] - 1) / 0.2)) for row in nearest}
        expected.append(voted(data, 0, weights, set(voters)))
    ours = (
        model.out_of_fold_logits(data.features, queries, data.folds)
        if out_of_fold
        else model.logits(data.features, queries)
    )
    np.testing.assert_allclose(ours, expected, atol=5e-3)


def test_knn_asks_for_the_dimensions_it_was_fitted_on(data: TrainingData, test_part: Features, tmp_path: Path) -> None:
    model = KnnFitter().fit(data, np.flatnonzero(data.folds >= 0), fit_context(tmp_path))
    narrow = Features(
        test_part.ids,
        test_part.sequences,
        {**test_part.dense, "t5": test_part.dense["t5"][:, :3]},
        test_part.taxa,
        test_part.hits,
    )
    with pytest.raises(DataError, match="t5 has 3 dimensions, the model needs 7"):
        model.logits(narrow, np.array([0]))
