"""The masked loss, the monitors and the saved files against their definitions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from services.train.models.base import TrainingData
from services.train.models.inputs import load_splits
from services.train.models.monitors import monitor
from services.train.models.saved import join_parts, read_torch, write_logits, write_torch
from services.train.models.targets import Entries, MaskedLoss, learnable_terms, prior_logits
from shared.artefacts import artefact
from shared.errors import GowhyError
from shared.models.base import logit
from tests.fakes.level1_run import Level1Run, training_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Level1Run(proteins=80, tests=5).write(tmp_path_factory.mktemp("targets"))


@pytest.fixture(scope="module")
def data(folder: Path) -> TrainingData:
    return training_data(folder)


def test_the_loss_is_the_weighted_mean_over_known_entries(data: TrainingData) -> None:
    rows = np.flatnonzero(data.folds >= 0)
    rng = np.random.default_rng(0)
    weights = rng.random(len(data.terms)).astype(np.float32)
    masked = MaskedLoss.of(Entries(data), rows, weights=weights, min_positives=6, device="cpu")
    batch = rng.permutation(rows)[:17]
    logits = rng.normal(size=(17, len(data.terms)))
    labels, learnable = data.labels.toarray(), learnable_terms(data, rows, 6)
    total = count = 0.0
    for place, row in enumerate(batch):
        for column in np.flatnonzero(learnable):
            if data.annotated[row, data.aspects[column]]:
                probability = 1 / (1 + np.exp(-logits[place, column]))
                total -= weights[column] * np.log(probability if labels[row, column] else 1 - probability)
                count += weights[column]
    assert 3 < learnable.sum() < len(data.terms)
    assert float(masked(torch.from_numpy(logits), batch)) == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_gradient_is_torchs_own(data: TrainingData, dtype: torch.dtype) -> None:
    rows = np.flatnonzero(data.folds >= 0)
    rng = np.random.default_rng(1)
    weights = rng.random(len(data.terms)).astype(np.float32)
    masked = MaskedLoss.of(Entries(data), rows, weights=weights, min_positives=1, device="cpu")
    values = torch.from_numpy(rng.normal(size=(17, len(data.terms))) * 20).to(dtype)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    known = torch.from_numpy(data.annotated[rows[:17]][:, data.aspects]) * masked.weights
    target = torch.from_numpy(data.labels[rows[:17]].toarray())
    wanted = (
        torch.nn.functional.binary_cross_entropy_with_logits(theirs.float(), target, weight=known, reduction="sum")
        / known.sum()
    )
    found = masked(ours, rows[:17])
    found.backward()
    wanted.backward()
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert ours.grad is not None
    assert ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-9)


def test_a_batch_in_which_nothing_is_known_has_no_loss_and_no_gradient(data: TrainingData) -> None:
    blind = replace(data, annotated=np.zeros_like(data.annotated))
    masked = MaskedLoss.of(
        Entries(blind), np.arange(10), weights=np.ones(len(data.terms), np.float32), min_positives=1, device="cpu"
    )
    logits = torch.randn(3, len(data.terms), requires_grad=True)
    loss = masked(logits, np.arange(3))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(logits.grad.abs().sum()) == 0.0


def test_roots_are_certain_and_not_learnt(data: TrainingData) -> None:
    rows = np.flatnonzero(data.folds >= 0)
    roots = [data.terms.index(term) for term in data.ontology.roots.values()]
    np.testing.assert_allclose(prior_logits(data, rows)[roots], 9.21, atol=1e-3)
    assert not learnable_terms(data, rows, 1)[roots].any()


def test_monitors_follow_their_definition(folder: Path, data: TrainingData) -> None:
    splits = load_splits(lambda path: artefact(path).codec.read(folder / path), data.features.ids)
    logits = logit(np.random.default_rng(1).random((80, len(data.terms)))).astype(np.float16)
    metrics = monitor(logits, data, splits, min_taxon_proteins=10)
    scores, truth = 1 / (1 + np.exp(-logits.astype(np.float64))), data.labels.toarray()
    known = data.annotated[:, data.aspects]
    error = np.abs(scores - truth)
    assert metrics["mae/val"] == pytest.approx(error[~splits.fit][known[~splits.fit]].mean())
    assert metrics["mae/train"] == pytest.approx(error[splits.fit][known[splits.fit]].mean())
    human = data.features.taxa == 9606
    assert metrics["mae/per_group/9606"] == pytest.approx(error[human][known[human]].mean())
    chosen = known & (data.aspects == 1)
    assert metrics["pearson/per_head/BP"] == pytest.approx(np.corrcoef(scores[chosen], truth[chosen])[0, 1])
    assert monitor(np.zeros_like(logits), data, splits, 10**6)["pearson/per_head/MF"] is None


def test_saved_tensors_do_not_depend_on_the_files_name(tmp_path: Path) -> None:
    arrays = join_parts(
        {"1": {"b": np.arange(3.0), "a": np.zeros((2, 0))}, "0": {"a": np.ones(2, np.float16), "b": np.arange(4)}}
    )
    assert list(arrays) == ["0/a", "0/b", "1/a", "1/b"]
    for name in ("one.pth", "another.pth"):
        write_torch(tmp_path / name, arrays)
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "another.pth").read_bytes()
    back = read_torch(tmp_path / "one.pth")
    assert all(np.array_equal(back[name], array) and back[name].dtype == array.dtype for name, array in arrays.items())


def test_a_logit_that_is_not_finite_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(GowhyError, match="not finite"):
        write_logits(tmp_path / "own.npy", lambda rows: np.full((len(rows), 2), np.nan, np.float32), np.arange(3), 2)
    assert list(tmp_path.iterdir()) == []
