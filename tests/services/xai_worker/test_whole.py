from __future__ import annotations

import numpy as np
import pytest
import torch

from services.xai_worker.explainers import ResiduePath
from services.xai_worker.stored import StoredRun
from services.xai_worker.whole import RESIDUES, WORDS, WholePath, known_of
from tests.fakes.explained_run import ExplainedRun


def whole(fake_run: ExplainedRun, protein: str, aspect: str = "MF") -> WholePath:
    run = StoredRun(fake_run.folder)
    place = run.places[protein]
    goa = {kind: matrix[[place.row]] for kind, matrix in fake_run.goa(place.part).items()}
    layout = fake_run.bundle.stacker.layout
    terms = [layout.terms[i] for i in layout.of_aspect(aspect)]
    return WholePath(fake_run.bundle, run, known_of(fake_run.bundle, run, place, goa), aspect=aspect, terms=terms)


@pytest.mark.parametrize("protein", ["T1", "T3", "P2", "P5"])
@pytest.mark.parametrize("aspect", ["MF", "BP"])
def test_it_computes_the_stored_final_score(fake_run: ExplainedRun, protein: str, aspect: str) -> None:
    path = whole(fake_run, protein, aspect)
    run = StoredRun(fake_run.folder)
    place = run.places[protein]
    stored = run.scores(place.part, "gcn")[place.row, [run.stacker_terms[term] for term in path.terms]]
    np.testing.assert_allclose(path.stored_scale().numpy(), stored, atol=2e-3)
    np.testing.assert_allclose(path.forward(path.blocks())[0].detach().numpy(), stored, atol=0.01)
    np.testing.assert_allclose(path.masked_logits([[]])[0].numpy(), stored, atol=0.01)
    assert isinstance(path, ResiduePath)


def test_residues_alone_are_the_same_function(fake_run: ExplainedRun) -> None:
    path = whole(fake_run, "T2")
    x = path.inputs()
    torch.testing.assert_close(path.logits(x), path.forward(path.blocks()))
    assert path.baseline().shape == x.shape
    both = path.logits(torch.cat([x, path.baseline()]))
    torch.testing.assert_close(both[:1], path.logits(x), atol=1e-5, rtol=1e-5)


def test_masking_all_readers_is_masking_each(fake_run: ExplainedRun) -> None:
    """A masked residue moves the final score, and the same groups asked twice are read once."""
    path = whole(fake_run, "T1")
    one = path.masked_logits([[], [4], [5, 6]])
    assert (one[0] - one[1]).abs().max() > 1e-4
    known = {reader: dict(rows) for reader, rows in path.cache._rows.items()}
    assert set(known) == {"cnn", "esm2", "t5"}
    torch.testing.assert_close(path.masked_logits([[6, 5], []]), one[[2, 0]])
    assert {reader: len(rows) for reader, rows in path.cache._rows.items()} == dict.fromkeys(known, 3)


def test_the_line_from_no_text_has_no_step_at_its_start(fake_run: ExplainedRun) -> None:
    """Unit length of a vector that shrinks to zero would be a step that no quadrature sees."""
    path = whole(fake_run, "T1")
    blocks = path.blocks()
    assert blocks[WORDS].norm().item() == pytest.approx(1.0)
    blocks[WORDS] = 1e-4 * blocks[WORDS]
    near = path.forward(blocks)
    blocks[WORDS] = torch.zeros_like(blocks[WORDS])
    torch.testing.assert_close(near, path.forward(blocks), atol=1e-4, rtol=1e-4)


def test_every_source_has_a_baseline_of_its_shape(fake_run: ExplainedRun) -> None:
    path = whole(fake_run, "T1")
    x, baseline = path.blocks(), path.baselines()
    assert {name: block.shape for name, block in x.items()} == {name: block.shape for name, block in baseline.items()}
    assert [name for name in x if name.startswith(RESIDUES)] == ["residues:cnn", "residues:esm2", "residues:t5"]
