"""Conditional targets: which entries are read, what is learnt from them, and that scores are unconditional."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from services.train.models import MODELS
from services.train.models.base import TrainingData
from services.train.models.targets import Entries, MaskedLoss, learnable_terms, prior_logits
from shared.models.base import logit
from shared.models.logreg import Logreg
from shared.nn.heads import MlpModel
from tests.fakes.level1_run import QUICK, Level1Run, fit_context, rows_without, training_data
from tests.fakes.ontologies import make_ontology

NAMES = ("mlp_conditional", "logreg_conditional")
# A root, two children, one grandchild of both and one of the second; the other aspects stay roots alone.
PARENTS = [[], [], [], [0], [0], [3, 4], [4]]
ASPECT_OF = [0, 1, 2, 0, 0, 0, 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """Real features of the fake run, labels of a deeper ontology that follow from the vectors."""
    flat = training_data(Level1Run(proteins=300, tests=4).write(tmp_path_factory.mktemp("conditional")))
    ontology = make_ontology(PARENTS, ASPECT_OF)
    rng = np.random.default_rng(5)
    seen = np.asarray(flat.features.dense["esm2"], np.float64)
    signal = seen / seen.std(0)
    labels = np.zeros((len(seen), len(PARENTS)), bool)
    labels[:, :3] = flat.annotated
    labels[:, 3], labels[:, 4] = (flat.annotated[:, 0] & (signal[:, place] + 0.3 > 0) for place in (0, 1))
    labels[:, 5] = (labels[:, 3] | labels[:, 4]) & (signal[:, 2] + 0.5 * rng.normal(size=len(seen)) > 0)
    labels[:, 3] |= labels[:, 5]
    labels[:, 4] |= labels[:, 5]
    labels[:, 6] = labels[:, 4] & (signal[:, 3] + 0.5 * rng.normal(size=len(seen)) > 0.2)
    return replace(
        flat,
        terms=ontology.terms,
        aspects=ontology.aspects,
        labels=sparse.csr_array(labels.astype(np.float32)),
        ontology=ontology,
        information=np.ones(len(PARENTS), np.float32),
    )


@pytest.fixture(scope="module")
def rows(data: TrainingData) -> np.ndarray:
    return rows_without(data, 1)


def known_by_loop(data: TrainingData, rows: np.ndarray) -> np.ndarray:
    labels = data.labels.toarray() > 0
    return np.array(
        [
            [
                data.annotated[row, data.aspects[term]]
                and (not data.ontology.parents[term] or labels[row, list(data.ontology.parents[term])].any())
                for term in range(len(data.terms))
            ]
            for row in rows
        ]
    )


def test_an_entry_is_known_where_a_parent_is_true(data: TrainingData, rows: np.ndarray) -> None:
    entries, wanted = Entries.of(data, "conditional"), known_by_loop(data, rows)
    np.testing.assert_array_equal(entries.known(rows), wanted)
    np.testing.assert_array_equal(entries.known(rows, np.array([6, 0])), wanted[:, [6, 0]])
    np.testing.assert_array_equal(entries.counts(rows), wanted.sum(0))
    assert wanted[:, 5:].sum() < Entries.of(data, "raw").known(rows)[:, 5:].sum()
    np.testing.assert_array_equal(Entries.of(data, "raw").counts(rows), Entries(data).known(rows).sum(0))


def test_priors_are_given_a_parent(data: TrainingData, rows: np.ndarray) -> None:
    entries, known = Entries.of(data, "conditional"), known_by_loop(data, rows)
    share = (data.labels[rows].toarray() * known).sum(0) / known.sum(0)
    np.testing.assert_allclose(prior_logits(data, rows, entries), logit(share), rtol=1e-5)
    assert prior_logits(data, rows, entries)[6] > prior_logits(data, rows)[6]


def test_a_term_that_all_with_a_parent_have_is_not_learnt(data: TrainingData, rows: np.ndarray) -> None:
    labels = data.labels.toarray()
    labels[:, 6] = labels[:, 4]
    always = replace(data, labels=sparse.csr_array(labels))
    assert learnable_terms(always, rows, 5)[6]
    assert not learnable_terms(always, rows, 5, Entries.of(always, "conditional"))[6]


def test_the_loss_reads_no_masked_entry(data: TrainingData, rows: np.ndarray) -> None:
    entries = Entries.of(data, "conditional")
    weights = np.ones(len(data.terms), np.float32)
    masked = MaskedLoss.of(entries, rows, weights=weights, min_positives=5, device="cpu")
    logits = torch.randn(20, len(data.terms), requires_grad=True)
    masked(logits, rows[:20]).backward()
    read = entries.known(rows[:20]) & learnable_terms(data, rows, 5, entries)
    np.testing.assert_array_equal(logits.grad.numpy() != 0, read)
    assert 0 < read.sum() < Entries(data).known(rows[:20]).sum()


def test_logistic_regression_equals_scikit_learn_on_the_proteins_that_have_a_parent(
    data: TrainingData, rows: np.ndarray, tmp_path: Path
) -> None:
    options = QUICK.logreg.model_copy(update={"l2": 1e-2, "iterations": 3000, "tolerance": 1e-7})
    model = MODELS["logreg_conditional"].fit(
        data, rows, fit_context(tmp_path, QUICK.model_copy(update={"logreg": options}), fold=1)
    )
    assert isinstance(model, Logreg)
    every = model.space.matrix(data.features, rows).astype(np.float64)
    annotated, known = int(data.annotated[rows, 0].sum()), known_by_loop(data, rows)
    for term in (4, 5, 6):
        asked = known[:, term]
        oracle = LogisticRegression(C=1 / (options.l2 * annotated), tol=1e-10, max_iter=20_000)
        oracle.fit(every[asked], data.labels[rows[asked]].toarray()[:, term])
        ours = expit(every @ model.weights[:, term] + model.bias[term])
        assert np.abs(ours - oracle.predict_proba(every)[:, 1]).max() <= 5e-3


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_unconditional(name: str, data: TrainingData, rows: np.ndarray, tmp_path: Path) -> None:
    model = MODELS[name].fit(data, rows, fit_context(tmp_path, fold=1))
    held_out = np.flatnonzero((data.folds == 1) & data.annotated[:, 0])
    scores = expit(model.logits(data.features, held_out))
    labels = data.labels[held_out].toarray()
    # Below a single parent: never more likely than it. And about as frequent as the term is, not as given a parent.
    assert (scores[:, 6] <= scores[:, 4] + 1e-4).all()
    for term in (5, 6):
        assert abs(scores[:, term].mean() - labels[:, term].mean()) < 0.12
        positive = labels[:, term] > 0
        assert scores[positive, term].mean() > scores[~positive, term].mean() + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_only_a_conditional_model_has_a_chain(name: str, data: TrainingData, rows: np.ndarray, tmp_path: Path) -> None:
    model = MODELS[name].fit(data, rows, fit_context(tmp_path / "a", fold=1))
    architecture = model.architecture()
    assert [tuple(edge) for edge in architecture["chain"]] == [(3, 0), (4, 0), (5, 3), (5, 4), (6, 4)]
    raw = MODELS[name.removesuffix("_conditional")].fit(data, rows, fit_context(tmp_path / "b", fold=1))
    assert "chain" not in raw.architecture()
    assert isinstance(model, Logreg | MlpModel)
    assert not np.allclose(model.logits(data.features, rows), raw.logits(data.features, rows), atol=0.05)
