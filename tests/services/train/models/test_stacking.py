"""What one fit learns, what it may not read, and that it can be spoilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from services.train.models.stacking import (
    StackingContext,
    best_epochs,
    fit_aspect,
    held_out_loss,
    inner_split,
    level1_losses,
    set_priors,
)
from services.train.stages.stage_08_stacker import aspect_data, prepare
from shared.config import StackerConfig
from shared.config.training import TrainingConfig
from shared.logs import Logger
from tests.fakes.planted import STACKER, Planted, stage_context

FOLD = 0


def context(config: StackerConfig = STACKER) -> StackingContext:
    return StackingContext(config, TrainingConfig(), "cpu", 1, "stage_08_stacker", FOLD, Logger(None, quiet=True))


def data_of(planted: Planted, folder: Path, aspect: str = "BP", config: StackerConfig = STACKER):
    return aspect_data(prepare(stage_context(planted.write(folder), planted.config(config))), aspect)


def own_rows(data) -> np.ndarray:
    return np.flatnonzero((data.folds == FOLD) & data.annotated)


def fitted_loss(planted: Planted, folder: Path, config: StackerConfig = STACKER) -> float:
    data = data_of(planted, folder, config=config)
    network, _ = fit_aspect(data, context(config))
    loss = held_out_loss(network, data, own_rows(data), context(config))
    assert loss is not None
    return loss


@pytest.fixture(scope="module")
def honest_loss(tmp_path_factory: pytest.TempPathFactory) -> float:
    return fitted_loss(Planted(), tmp_path_factory.mktemp("honest"))


def test_children_help_parents_beyond_any_level1_model_and_beyond_the_blend(tmp_path: Path, honest_loss: float) -> None:
    data = data_of(Planted(), tmp_path)
    best_single = min(level1_losses(data, own_rows(data)).values())
    blend = fitted_loss(Planted(), tmp_path / "blend", STACKER.model_copy(update={"epochs": 0}))
    assert blend < best_single
    assert honest_loss < 0.85 * blend


def permute_terms(matrix: np.ndarray) -> np.ndarray:
    return matrix[:, np.random.default_rng(0).permutation(matrix.shape[1])]


def shift_rows(matrix: np.ndarray) -> np.ndarray:
    return np.roll(matrix, 1, axis=0)


@pytest.mark.parametrize("spoil", [permute_terms, shift_rows])
def test_spoiling_one_level1_matrix_lowers_the_held_out_score(
    tmp_path: Path, honest_loss: float, spoil: Callable[[np.ndarray], np.ndarray]
) -> None:
    planted = Planted()
    planted.level1["knn"] = spoil(planted.level1["knn"])
    assert fitted_loss(planted, tmp_path) > 1.15 * honest_loss


def test_labels_of_the_own_fold_and_of_validation_proteins_are_not_read(tmp_path: Path) -> None:
    config = STACKER.model_copy(update={"epochs": 1, "goa_dropout": 0.0})
    data = data_of(Planted(), tmp_path, "CC", config)
    hidden = (data.folds == FOLD) | (data.folds < 0)
    turned = data.labels.toarray()
    turned[hidden] = 1 - turned[hidden]
    changed = replace(data, labels=type(data.labels)(turned), annotated=data.annotated | hidden)
    first, second = (fit_aspect(view, context(config))[0].state_dict() for view in (data, changed))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_inner_fold_chooses_and_does_not_train(tmp_path: Path) -> None:
    data = data_of(Planted(), tmp_path)
    split = inner_split(data, FOLD)
    assert set(data.folds[split.inner]) == {1}
    assert set(data.folds[split.train]) == {2, 3, 4}
    assert data.annotated[split.inner].all()
    assert data.annotated[split.train].all()
    assert set(data.folds[inner_split(data, 4).inner]) == {0}


def test_with_two_folds_the_inner_rows_are_other_clusters_of_the_same_fold(tmp_path: Path) -> None:
    data = data_of(Planted(folds=2), tmp_path)
    split = inner_split(data, FOLD)
    assert set(data.folds[np.concatenate([split.train, split.inner])]) == {1}
    assert not set(data.clusters[split.train]) & set(data.clusters[split.inner])
    assert len(split.train) > 20
    assert len(split.inner) > 20


def test_a_network_that_does_not_help_is_not_kept(tmp_path: Path) -> None:
    config = STACKER.model_copy(update={"learning_rate": 5.0, "epochs": 2})
    data = data_of(Planted(proteins=250), tmp_path, "MF", config)
    network, record = fit_aspect(data, context(config))
    assert record["epochs_kept"] == [0]
    assert record["loss_inner_kept"] == pytest.approx(record["loss_inner"][0])
    rows = own_rows(data)
    assert torch.equal(network(data.inputs(rows)), network.base(data.inputs(rows).transpose(0, 1)).t())


def test_the_record_says_what_was_kept(tmp_path: Path) -> None:
    config = STACKER.model_copy(update={"average_best": 2, "epochs": 3})
    data = data_of(Planted(), tmp_path, "MF", config)
    network, record = fit_aspect(data, context(config))
    assert len(record["loss_inner"]) == 4
    assert len(record["epochs_kept"]) == 2
    inner = inner_split(data, FOLD).inner
    with torch.no_grad():
        loss = functional.binary_cross_entropy_with_logits(network(data.inputs(inner)), data.targets(inner))
    assert record["loss_inner_kept"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(
    ("losses", "count", "kept"),
    [([], 1, [0]), ([1.0, 2.0], 3, [0]), ([3.0, 2.0, 1.0, 1.5], 2, [2, 3]), ([2.5, 3.0, 1.0, 2.0], 3, [2, 3])],
)
def test_best_epochs(losses: list[float], count: int, kept: list[int]) -> None:
    assert best_epochs(losses, count) == kept


def test_priors_are_frequencies_among_the_given_rows(tmp_path: Path) -> None:
    data = data_of(Planted(), tmp_path)
    network, rows = data.layout.network("BP"), inner_split(data, FOLD).train
    set_priors(network, data, rows)
    labels = data.labels[rows].toarray() > 0
    for term in range(labels.shape[1]):
        parents = [parent for child, parent in data.layout.edges["BP"] if child == term]
        reached = labels[:, parents].any(1) if parents else np.ones(len(rows), bool)
        expected = [(labels[:, term].sum() + 0.5) / (n + 1) for n in (len(rows), reached.sum())]
        found = torch.sigmoid(network.priors[:, term]).tolist()
        assert found == pytest.approx(expected, rel=1e-3)


def test_an_aspect_that_nobody_is_annotated_in_keeps_the_mean_of_the_models(tmp_path: Path) -> None:
    data = data_of(Planted(), tmp_path, "CC")
    unknown = replace(data, annotated=np.zeros_like(data.annotated))
    network, record = fit_aspect(unknown, context())
    rows = np.flatnonzero(data.folds == FOLD)[:5]
    expected = data.inputs(rows)[..., :2].mean(-1)
    assert record["proteins_train"] == 0
    torch.testing.assert_close(network(data.inputs(rows)), expected)
