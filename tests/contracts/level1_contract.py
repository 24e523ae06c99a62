"""What every registered level-1 model must do; a test file subclasses this with a `fitter` fixture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from services.train.models.base import Fitter, TrainingData
from services.train.models.reuse import own_config, own_features
from services.train.models.targets import learnable_terms, prior_logits
from shared.models.base import LOGIT_LIMIT, Level1Model, VoteModel
from shared.models.features import Features
from shared.models.members import MEMBERS
from tests.fakes.level1_run import QUICK, Level1Run, features_of_tests, fit_context, rows_without, training_data


def poisoned(data: TrainingData, rows: np.ndarray) -> TrainingData:
    """Other features and other labels at `rows`; everything else is as it was."""
    rng = np.random.default_rng(9)
    dense = {}
    for name, vectors in data.features.dense.items():
        dense[name] = np.array(vectors)
        dense[name][rows] = 100.0 * rng.normal(size=dense[name][rows].shape)
    labels = data.labels.toarray()
    labels[rows] = 1.0 - labels[rows]
    annotated = data.annotated.copy()
    annotated[rows] = True
    taxa = data.features.taxa.copy()
    taxa[rows] = 77
    sequences = [
        "W" * 30 if row in set(rows.tolist()) else sequence for row, sequence in enumerate(data.features.sequences)
    ]
    hits = data.features.hits
    chosen = np.isin(np.repeat(np.arange(len(data.features)), np.diff(hits.indptr)), rows)
    hits = replace(hits, bits=np.where(chosen, 1e4, hits.bits).astype(np.float32))
    features = replace(data.features, dense=dense, taxa=taxa, sequences=sequences, hits=hits)
    return replace(data, features=features, labels=sparse.csr_array(labels), annotated=annotated)


def same_arrays(first: Level1Model, second: Level1Model) -> bool:
    """Bit-identical fitted arrays."""
    ours, theirs = first.arrays(), second.arrays()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and np.array_equal(ours[name], theirs[name]) for name in ours
    )


class Level1Contract:
    """Subclass, and give a `fitter` fixture of class scope."""

    FOLD = 1

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls, tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
        return training_data(Level1Run(proteins=150, tests=12, words=5).write(tmp_path_factory.mktemp("level1")))

    @pytest.fixture(scope="class")
    @classmethod
    def fitter(cls) -> Fitter:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def rows(cls, data: TrainingData) -> np.ndarray:
        return rows_without(data, cls.FOLD)

    @pytest.fixture(scope="class")
    @classmethod
    def model(
        cls, fitter: Fitter, data: TrainingData, rows: np.ndarray, tmp_path_factory: pytest.TempPathFactory
    ) -> Level1Model:
        """Given only what the fitter declares; `test_a_second_fit_is_bit_identical` is given everything."""
        seen = replace(data, features=own_features(data.features, fitter.name))
        config = own_config(QUICK, fitter.name)
        return fitter.fit(seen, rows, fit_context(tmp_path_factory.mktemp("fit"), config, fold=cls.FOLD))

    def test_is_a_level1_model_of_its_kind(self, fitter: Fitter, model: Level1Model) -> None:
        assert isinstance(model, Level1Model)
        assert MEMBERS[fitter.name] is type(model)
        assert isinstance(model, VoteModel) == fitter.votes

    def test_logits_have_the_shape_of_rows_and_terms(self, data: TrainingData, model: Level1Model) -> None:
        rows = np.array([5, 3, 5])
        logits = model.logits(data.features, rows)
        assert logits.shape == (3, len(data.terms))
        assert logits.dtype == np.float32
        assert model.terms == data.terms
        assert np.isfinite(logits).all()
        assert np.abs(logits).max() <= np.float32(LOGIT_LIMIT)
        np.testing.assert_allclose(logits[0], logits[2], atol=1e-5)

    def test_no_rows_give_no_logits(self, data: TrainingData, model: Level1Model) -> None:
        assert model.logits(data.features, np.zeros(0, np.int64)).shape == (0, len(data.terms))

    def test_other_proteins_in_the_call_do_not_matter(self, data: TrainingData, model: Level1Model) -> None:
        alone = model.logits(data.features, np.array([7]))
        np.testing.assert_allclose(model.logits(data.features, np.arange(20))[7], alone[0], atol=1e-4)

    def test_restored_from_json_and_arrays_gives_identical_logits(self, data: TrainingData, model: Level1Model) -> None:
        architecture = json.loads(json.dumps(model.architecture()))
        copy = MEMBERS[model.kind].restore(architecture, {name: array.copy() for name, array in model.arrays().items()})
        rows = np.arange(len(data.features))
        np.testing.assert_array_equal(copy.logits(data.features, rows), model.logits(data.features, rows))
        assert same_arrays(copy, model)
        assert copy.architecture() == model.architecture()

    def test_a_second_fit_is_bit_identical(
        self, fitter: Fitter, data: TrainingData, rows: np.ndarray, model: Level1Model, tmp_path: Path
    ) -> None:
        np.random.seed(99)
        assert same_arrays(fitter.fit(data, rows, fit_context(tmp_path, fold=self.FOLD)), model)

    def test_rows_outside_the_fit_change_nothing(
        self, fitter: Fitter, data: TrainingData, rows: np.ndarray, model: Level1Model, tmp_path: Path
    ) -> None:
        others = np.setdiff1d(np.arange(len(data.features)), rows)
        again = fitter.fit(poisoned(data, others), rows, fit_context(tmp_path, fold=self.FOLD))
        assert same_arrays(again, model)

    def test_rows_of_the_fit_do_matter(
        self, fitter: Fitter, data: TrainingData, rows: np.ndarray, model: Level1Model, tmp_path: Path
    ) -> None:
        assert not same_arrays(
            fitter.fit(poisoned(data, rows[:20]), rows, fit_context(tmp_path, fold=self.FOLD)), model
        )

    def test_unannotated_aspects_enter_no_loss(
        self, fitter: Fitter, data: TrainingData, rows: np.ndarray, model: Level1Model, tmp_path: Path
    ) -> None:
        labels = data.labels.toarray()
        labels[~data.annotated[:, data.aspects]] = 1.0
        again = fitter.fit(replace(data, labels=sparse.csr_array(labels)), rows, fit_context(tmp_path, fold=self.FOLD))
        np.testing.assert_array_equal(again.logits(data.features, rows), model.logits(data.features, rows))

    def test_terms_with_too_few_positives_keep_their_prior(
        self, fitter: Fitter, data: TrainingData, rows: np.ndarray, tmp_path: Path
    ) -> None:
        config = QUICK.model_copy(update={"min_positives": 12})
        model = fitter.fit(data, rows, fit_context(tmp_path, config, fold=self.FOLD))
        constant = ~learnable_terms(data, rows, 12)
        assert 3 < constant.sum() < len(data.terms)
        if not fitter.votes and fitter.targets == "raw":  # else the chain over the parents makes them vary
            priors = np.broadcast_to(prior_logits(data, rows)[constant], (40, constant.sum()))
            np.testing.assert_allclose(model.logits(data.features, np.arange(40))[:, constant], priors, atol=1e-5)

    def test_a_vote_leaves_out_the_querys_fold(self, fitter: Fitter, data: TrainingData, tmp_path: Path) -> None:
        if not fitter.votes:
            pytest.skip("not a vote")
        fit_rows = np.flatnonzero(data.folds >= 0)
        own = np.flatnonzero(data.folds == self.FOLD)
        whole = fitter.fit(data, fit_rows, fit_context(tmp_path))
        assert isinstance(whole, VoteModel)
        labels, annotated = data.labels.toarray(), data.annotated.copy()
        labels[own], annotated[own] = 1.0 - labels[own], True
        changed = fitter.fit(
            replace(data, labels=sparse.csr_array(labels), annotated=annotated), fit_rows, fit_context(tmp_path)
        )
        assert isinstance(changed, VoteModel)
        blind = whole.out_of_fold_logits(data.features, own, data.folds)
        np.testing.assert_array_equal(changed.out_of_fold_logits(data.features, own, data.folds), blind)
        assert not np.array_equal(whole.logits(data.features, own), blind)

    def test_unseen_taxa_and_test_proteins_are_scored(self, model: Level1Model, tmp_path: Path) -> None:
        features: Features = features_of_tests(Level1Run(proteins=150, tests=12, words=5).write(tmp_path))
        features = replace(features, taxa=np.full(len(features), 123456))
        assert np.isfinite(model.logits(features, np.arange(len(features)))).all()
