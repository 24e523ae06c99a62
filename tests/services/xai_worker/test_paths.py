from __future__ import annotations

import numpy as np
import pytest
import torch

from services.xai_worker.explainers import Path, ResiduePath
from services.xai_worker.paths import PooledPath, SequenceModel, residue_models, residue_path, stacker_path
from services.xai_worker.stored import StoredRun
from shared.nn.heads import MlpModel
from tests.fakes.explained_run import ExplainedRun, TinyCnn

MODELS = ("cnn", "mlp/esm2", "mlp/t5")


def test_only_differentiable_models_have_paths(fake_run: ExplainedRun) -> None:
    assert residue_models(fake_run.bundle) == MODELS
    assert isinstance(TinyCnn(["GO:1"], 0), SequenceModel)
    assert not isinstance(fake_run.bundle.level1["mlp"][0], SequenceModel)
    assert isinstance(fake_run.bundle.level1["mlp"][0], MlpModel)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("protein", ["T2", "P0", "P1", "P5"])
def test_a_residue_path_computes_what_the_run_stored(fake_run: ExplainedRun, name: str, protein: str) -> None:
    run = StoredRun(fake_run.folder)
    place, terms = run.places[protein], fake_run.terms[3:]
    path = residue_path(fake_run.bundle, run, name, place, terms)
    assert isinstance(path, ResiduePath)
    stored = run.scores(place.part, name.partition("/")[0])[place.row, [run.level1_terms[term] for term in terms]]
    np.testing.assert_allclose(path.stored_scale().numpy(), stored, atol=0.01)
    np.testing.assert_allclose(path.logits(path.inputs())[0].detach().numpy(), stored, atol=0.01)
    assert path.masked_logits([[], [0], [1, 2]]).shape == (3, len(terms))
    np.testing.assert_allclose(path.masked_logits([[]])[0].numpy(), stored, atol=0.01)
    assert path.baseline().shape == path.inputs().shape


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_residues_and_leave_no_trace_in_the_weights(fake_run: ExplainedRun, name: str) -> None:
    run = StoredRun(fake_run.folder)
    path = residue_path(fake_run.bundle, run, name, run.places["T1"], fake_run.terms[:2])
    inputs = path.inputs().requires_grad_(True)
    path.logits(inputs)[0, 1].backward()
    assert inputs.grad is not None
    assert (inputs.grad.abs().sum(-1) > 0).all()
    if isinstance(path, PooledPath):
        assert all(p.grad is None for member in path.members for p in member.network.parameters())


def test_the_pooled_vector_is_the_stored_one(fake_run: ExplainedRun) -> None:
    run = StoredRun(fake_run.folder)
    path = residue_path(fake_run.bundle, run, "mlp/t5", run.places["T3"], fake_run.terms[:1])
    assert isinstance(path, PooledPath)
    np.testing.assert_allclose(path.pooled(), run.features(run.places["T3"]).dense["t5"][0], atol=2e-3)


@pytest.mark.parametrize("protein", ["T1", "T3", "P2", "P3", "P5"])
@pytest.mark.parametrize("aspect", ["MF", "BP"])
def test_the_stackers_path_computes_what_the_run_stored(fake_run: ExplainedRun, protein: str, aspect: str) -> None:
    run, layout = StoredRun(fake_run.folder), fake_run.bundle.stacker.layout
    place, terms = run.places[protein], [layout.terms[i] for i in layout.of_aspect(aspect)][::-1]
    goa = run.goa(place.part, [protein])
    path = stacker_path(fake_run.bundle, run, place, aspect=aspect, terms=terms, goa=goa)
    assert isinstance(path, Path)
    stored = run.scores(place.part, "gcn")[place.row, [run.stacker_terms[term] for term in terms]]
    np.testing.assert_allclose(path.stored_scale().numpy(), stored, atol=2e-3)


def test_the_neutral_point_knows_nothing_of_the_protein(fake_run: ExplainedRun) -> None:
    run, layout = StoredRun(fake_run.folder), fake_run.bundle.stacker.layout
    terms = [layout.terms[i] for i in layout.of_aspect("MF")]
    paths = [
        stacker_path(fake_run.bundle, run, run.places[p], aspect="MF", terms=terms, goa=run.goa("test", [p]))
        for p in ("T1", "T2")
    ]
    assert torch.equal(paths[0].baseline(), paths[1].baseline())
    assert not torch.equal(paths[0].inputs(), paths[1].inputs())
    channels = layout.channels.names
    assert paths[0].inputs()[0, :, channels.index("goa:IEA")].sum() == 1
    assert paths[0].baseline()[..., channels.index("goa:IEA")].sum() == 0
    missing = channels.index("missing")
    assert torch.equal(paths[0].inputs()[..., missing], paths[0].baseline()[..., missing])
