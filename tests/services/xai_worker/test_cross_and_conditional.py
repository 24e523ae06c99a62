"""Explanations of a model whose stacker reads the other aspects and whose MLP learnt conditional targets.

What holds of every model must hold of it: the stored score is reproduced, and what is shared out sums up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from services.xai_worker.paths import residue_path, stacker_path
from services.xai_worker.stored import StoredRun
from services.xai_worker.whole import RESIDUES
from tests.fakes.explained_run import ExplainedRun
from tests.services.xai_worker import test_whole
from tests.services.xai_worker.evidence import test_evidence

COMPONENTS = 3


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> ExplainedRun:
    return ExplainedRun(Path(tmp_path_factory.mktemp("crossed")), cross=COMPONENTS, conditional=True)


@pytest.mark.parametrize("protein", ["T1", "T3", "P2", "P5"])
@pytest.mark.parametrize("aspect", ["MF", "BP"])
def test_it_computes_the_stored_final_score(crossed: ExplainedRun, protein: str, aspect: str) -> None:
    test_whole.test_it_computes_the_stored_final_score(crossed, protein, aspect)


def test_the_other_aspect_moves_the_score_and_its_gradient_arrives(crossed: ExplainedRun) -> None:
    """In the fake run, MF's level-1 scores reach a BP score only through the other aspects' components."""
    path = test_whole.whole(crossed, "T1", "BP")
    assert len(path.level1_columns) == len(crossed.terms)
    blocks = {name: block.clone().requires_grad_(True) for name, block in path.blocks().items()}
    gradient = torch.autograd.grad(path.forward(blocks)[0, 0], blocks[RESIDUES + "cnn"])[0]
    assert gradient.abs().sum() > 0
    run, level1 = StoredRun(crossed.folder), dict(path.known.level1)
    place = run.places["T1"]
    stacker, goa = crossed.bundle.stacker, {kind: matrix[[place.row]] for kind, matrix in crossed.goa("test").items()}
    before = stacker.logits(level1, goa)
    others = stacker.layout.other_columns("BP")
    level1["mlp"] = np.array(level1["mlp"])
    level1["mlp"][:, others] += 2.0
    of_aspect = stacker.layout.of_aspect("BP")
    assert not np.array_equal(stacker.logits(level1, goa)[:, of_aspect], before[:, of_aspect])


def test_the_channels_of_the_other_aspects_are_in_the_ledger_and_it_sums_up(crossed: ExplainedRun) -> None:
    run = StoredRun(crossed.folder)
    for protein in ("T1", "P2"):
        place = run.places[protein]
        goa = {kind: matrix[[place.row]] for kind, matrix in crossed.goa(place.part).items()}
        terms = [crossed.terms[0], crossed.terms[1]]
        path = stacker_path(crossed.bundle, run, place, aspect="MF", terms=terms, goa=goa)
        assert path.inputs().shape == path.baseline().shape
        names = crossed.bundle.stacker.layout.channels.names
        assert names[-COMPONENTS:] == tuple(f"cross:{i}" for i in range(COMPONENTS))
        # As the account does: the line from the neutral state, by the midpoint rule.
        x, start = path.inputs().detach(), path.baseline()
        steps = (torch.arange(200) + 0.5) / 200
        points = (start + steps[:, None, None] * (x - start)).requires_grad_(True)
        for column in range(len(terms)):
            (gradient,) = torch.autograd.grad(path.logits(points)[:, column].sum(), points)
            values = (gradient.mean(0) * (x - start)[0]).double()
            whole = (path.logits(x) - path.logits(start))[0, column].item()
            assert values.sum().item() == pytest.approx(whole, abs=0.02)
            assert values[:, -COMPONENTS:].abs().sum() > 1e-3


def test_a_conditional_head_reproduces_its_level1_score(crossed: ExplainedRun) -> None:
    run = StoredRun(crossed.folder)
    for protein in ("T2", "P3"):
        place = run.places[protein]
        path = residue_path(crossed.bundle, run, "mlp/esm2", place, crossed.terms)
        stored = run.level1_logits(place, ["mlp"])["mlp"][0]
        np.testing.assert_allclose(path.stored_scale().numpy(), stored, atol=0.02)


def test_shapley_shares_are_efficient(crossed: ExplainedRun) -> None:
    test_evidence.test_shapley_shares_are_efficient_and_the_whole_coalition_is_the_stored_score(crossed)


def test_the_account_adds_up(crossed: ExplainedRun) -> None:
    test_evidence.test_the_account_adds_up_and_shows_its_remainder(crossed)


@pytest.mark.parametrize("method", ["shapley", "account", "go_path", "counterfactual_residues"])
def test_every_kind_says_the_same_twice(crossed: ExplainedRun, method: str) -> None:
    test_evidence.test_every_kind_says_the_same_twice_and_survives_writing(crossed, method, "P3")
