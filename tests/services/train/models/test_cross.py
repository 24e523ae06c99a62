"""What the stacker learns from the other aspects' scores, and what it may not read for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from services.train.models.cross import fit_cross
from services.train.models.stacking import AspectData, fit_aspect, fit_blend, fit_cross_blend, held_out_loss, set_priors
from services.train.stages.stage_08_stacker import aspect_data, prepare
from shared.models.channels import CrossAspect, mean_scores
from shared.nn.stacker import AspectStacker
from tests.fakes.planted import STACKER, Planted, stage_context
from tests.services.train.models.test_stacking import context, own_rows

CROSS = STACKER.model_copy(update={"epochs": 0, "cross_components": 16, "cross_prior": 5.0})
MODELS = ("homology", "knn")


def telling() -> Planted:
    """MF's scores say which CC terms a protein has, better than CC's own do."""
    planted = Planted()
    mf, cc = (np.flatnonzero(planted.ontology.aspects == number) for number in (0, 2))
    rng = np.random.default_rng(3)
    for model in planted.models:
        for scores, labels in ((planted.level1, planted.labels), (planted.test_level1, planted.test_labels)):
            told = 6.0 * (labels[:, cc] - 0.5) + rng.normal(size=(len(labels), len(cc)))
            scores[model] = np.array(scores[model])
            scores[model][:, mf[: len(cc)]] = told.astype(np.float16)
    return planted


def data_of(planted: Planted, folder: Path, config=CROSS, aspect: str = "CC") -> AspectData:
    return aspect_data(prepare(stage_context(planted.write(folder), planted.config(config))), aspect)


def level1(proteins: int = 50, terms: int = 9, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(proteins, 3)) @ rng.normal(size=(3, terms))
    return {name: (mixed + 0.1 * rng.normal(size=mixed.shape)).astype(np.float16) for name in MODELS}


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    scores, rows, columns = level1(), np.arange(0, 50, 2), np.array([7, 0, 3, 4, 5])
    cross = fit_cross(scores, rows, columns, 3)
    found = cross.of(scores)[rows]
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(0), 1, rtol=1e-3)
    own = mean_scores(scores, rows, columns).astype(np.float64)
    left, _, _ = np.linalg.svd(own - own.mean(0), full_matrices=False)
    for component in range(3):
        assert abs(np.corrcoef(found[:, component], left[:, component])[0, 1]) == pytest.approx(1, abs=1e-4)


def test_rows_that_are_not_of_the_fit_change_nothing() -> None:
    scores, rows, columns = level1(), np.arange(0, 50, 2), np.arange(5)
    changed = {name: np.array(matrix) for name, matrix in scores.items()}
    for matrix in changed.values():
        matrix[1::2] = 9.0
    first, second = (fit_cross(each, rows, columns, 4) for each in (scores, changed))
    np.testing.assert_array_equal(first.directions, second.directions)
    np.testing.assert_array_equal(first.mean, second.mean)


def test_a_proteins_components_depend_on_no_other_protein() -> None:
    scores = level1(terms=300)
    cross = fit_cross(scores, np.arange(50), np.arange(200), 7)
    together = cross.of(scores)
    for row in (0, 17, 49):
        np.testing.assert_array_equal(cross.of({n: m[row : row + 1] for n, m in scores.items()})[0], together[row])


@pytest.mark.parametrize("columns", [[], [3, 4]])
def test_fewer_terms_than_components_leave_the_rest_at_nothing(columns: list[int]) -> None:
    scores = level1()
    cross = fit_cross(scores, np.arange(50), np.array(columns, np.int64), 5)
    assert cross.directions.shape == (len(columns), 5)
    assert (cross.of(scores)[:, len(columns) :] == 0).all()
    assert np.isfinite(cross.of(scores)).all()


def test_terms_whose_score_never_changes_have_no_direction() -> None:
    same = {name: np.ones((20, 4), np.float16) for name in MODELS}
    assert not fit_cross(same, np.arange(20), np.arange(4), 2).directions.any()


def test_another_aspect_that_knows_better_is_used(tmp_path: Path) -> None:
    losses = []
    for name, config in (("with", CROSS), ("without", CROSS.model_copy(update={"cross_components": 0}))):
        data = data_of(telling(), tmp_path / name, config)
        network, _ = fit_aspect(data, context(config))
        losses.append(held_out_loss(network, data, own_rows(data), context(config)))
    assert losses[0] < 0.8 * losses[1]


def blended(data: AspectData, rows: np.ndarray) -> AspectStacker:
    torch.manual_seed(0)
    network = data.layout.network(data.aspect)
    set_priors(network, data, rows)
    fit_blend(network, data.inputs(rows), data.targets(rows), 1.0)
    return network


def base_loss(network: AspectStacker, data: AspectData, rows: np.ndarray) -> float:
    with torch.no_grad():
        logits = network.base(data.inputs(rows).transpose(0, 1)).t()
        return float(functional.binary_cross_entropy_with_logits(logits, data.targets(rows)))


@pytest.mark.parametrize("planted", [Planted, telling])
def test_what_it_adds_never_makes_the_fitted_rows_worse(planted, tmp_path: Path) -> None:
    data = data_of(planted(), tmp_path)
    rows = np.flatnonzero((data.folds > 0) & data.annotated)
    network = blended(data, rows)
    before = base_loss(network, data, rows)
    assert not network.cross_blend.any()  # the blend of the own scores leaves it alone
    fit_cross_blend(network, data, rows, 5.0)
    assert base_loss(network, data, rows) < before
    assert not any(parameter.requires_grad for parameter in network.blend_parameters)
    assert not network.cross_blend.requires_grad


def test_a_strong_prior_keeps_the_blend(tmp_path: Path) -> None:
    data = data_of(telling(), tmp_path)
    rows = np.flatnonzero((data.folds > 0) & data.annotated)
    network = blended(data, rows)
    before = base_loss(network, data, rows)
    fit_cross_blend(network, data, rows, 1e9)
    assert base_loss(network, data, rows) == pytest.approx(before, rel=1e-4)


def test_labels_of_the_own_fold_and_of_validation_proteins_are_not_read(tmp_path: Path) -> None:
    data = data_of(telling(), tmp_path)
    hidden = (data.folds == 0) | (data.folds < 0)
    turned = data.labels.toarray()
    turned[hidden] = 1 - turned[hidden]
    changed = replace(data, labels=type(data.labels)(turned), annotated=data.annotated | hidden)
    first, second = (fit_aspect(view, context(CROSS))[0].state_dict() for view in (data, changed))
    assert "cross_blend" in first
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_validation_proteins_take_no_part_in_the_directions(tmp_path: Path) -> None:
    planted, spoilt = telling(), telling()
    for model in spoilt.models:
        spoilt.level1[model][spoilt.folds_of < 0] = 3.0
    first, second = (
        prepare(stage_context(each.write(tmp_path / str(number)), each.config(CROSS))).cross
        for number, each in enumerate((planted, spoilt))
    )
    assert set(first) == {"MF", "BP", "CC"}
    for aspect, cross in first.items():
        assert isinstance(cross, CrossAspect)
        np.testing.assert_array_equal(cross.directions, second[aspect].directions)
