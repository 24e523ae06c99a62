"""The stacker's forward pass, its ensemble and its files."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse

from shared.digests import digest_of_lines
from shared.errors import IntegrityError, MissingInput
from shared.models.channels import Channels, CrossAspect
from shared.nn.stacker import AspectStacker, StackerEnsemble, StackerLayout, StackerShape, cross_tensors

LEVEL1_TERMS = [f"L{i}" for i in range(9)]
EDGES = {"MF": ((1, 0), (2, 0), (3, 1), (3, 2)), "CC": ()}
LAYOUT = StackerLayout(
    terms=("L1", "L8", "L2", "L5", "L4"),
    aspects=("MF", "CC", "MF", "MF", "MF"),
    columns=(1, 8, 2, 5, 4),
    level1_terms=9,
    level1_digest=digest_of_lines(LEVEL1_TERMS),
    channels=Channels(("homology", "knn"), ("IEA",)),
    missing_rate=(0.0, 0.2, 0.0, 0.0, 1.0),
    edges=EDGES,
    folds=(0, 1, 2),
    shape=StackerShape(hidden=16, embedding=3, layers=2, dropout=0.1, goa_dropout=0.5),
)


def network(aspect: str, seed: int, *, trained: bool = True) -> AspectStacker:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = LAYOUT.network(aspect)
        for parameter in [*made.blend_parameters, *(made.gate.parameters() if trained else ())]:
            torch.nn.init.normal_(parameter)
        torch.nn.init.normal_(made.priors)
    return made.eval()


@pytest.fixture
def ensemble() -> StackerEnsemble:
    return StackerEnsemble(
        LAYOUT, {fold: {aspect: network(aspect, 10 * fold + len(aspect)) for aspect in EDGES} for fold in LAYOUT.folds}
    )


def tensors_of(ensemble: StackerEnsemble) -> dict[str, torch.Tensor]:
    return {
        f"fold{fold}/{aspect}/{name}": tensor
        for fold, by_aspect in ensemble.networks.items()
        for aspect, net in by_aspect.items()
        for name, tensor in net.state_dict().items()
    }


def proteins(count: int) -> tuple[dict[str, np.ndarray], dict[str, sparse.csr_array]]:
    rng = np.random.default_rng(1)
    level1 = {name: rng.normal(-2, 2, (count, 9)).astype(np.float32) for name in ("homology", "knn")}
    return level1, {"IEA": sparse.csr_array((rng.random((count, 5)) < 0.3).astype(np.float32))}


def test_before_training_the_stacker_is_exactly_its_blend() -> None:
    untrained = network("MF", 0, trained=False)
    channels = torch.randn(7, 4, 4)
    by_term = channels.transpose(0, 1)
    assert torch.equal(untrained(channels), untrained.base(by_term).t())
    scores = channels[..., :2]
    expected = (
        scores @ untrained.blend
        + untrained.blend_missing * channels[..., 2]
        + untrained.term_scale * scores.mean(-1)
        + untrained.term_bias
    )
    torch.testing.assert_close(untrained(channels), expected)
    assert not torch.allclose(network("MF", 0)(channels), expected)


def test_a_score_depends_on_no_other_protein(ensemble: StackerEnsemble) -> None:
    level1, goa = proteins(45)
    together = ensemble.logits(level1, goa)
    assert together.shape == (45, 5)
    for row in (0, 31, 32, 44):
        rows = slice(row, row + 1)
        alone = ensemble.logits({n: m[rows] for n, m in level1.items()}, {k: m[rows] for k, m in goa.items()})
        np.testing.assert_array_equal(alone, together[rows])


def test_stored_float16_and_fresh_float32_logits_score_alike(ensemble: StackerEnsemble) -> None:
    level1, goa = proteins(5)
    stored = {name: matrix.astype(np.float16) for name, matrix in level1.items()}
    np.testing.assert_array_equal(ensemble.logits(level1, goa), ensemble.logits(stored, goa))


def test_restored_from_its_document_it_scores_the_same(ensemble: StackerEnsemble) -> None:
    level1, goa = proteins(6)
    document = json.loads(json.dumps({**LAYOUT.to_json(), "more": 1}))
    restored = StackerEnsemble.restore(document, tensors_of(ensemble))
    assert restored.layout == LAYOUT
    np.testing.assert_array_equal(restored.logits(level1, goa), ensemble.logits(level1, goa))


def test_damaged_documents_and_tensors_are_refused(ensemble: StackerEnsemble) -> None:
    tensors = tensors_of(ensemble)
    document = LAYOUT.to_json()
    rewired = copy.deepcopy(document)
    rewired["edges"]["MF"][0] = [2, 1]
    with pytest.raises(IntegrityError, match="graph"):
        StackerEnsemble.restore(rewired, tensors)
    with pytest.raises(IntegrityError, match="do not fit"):
        StackerEnsemble.restore(document, {k: v for k, v in tensors.items() if k != "fold1/MF/gate.weight"})
    with pytest.raises(MissingInput, match="fold2/CC"):
        StackerEnsemble.restore(document, {k: v for k, v in tensors.items() if not k.startswith("fold2/CC")})
    LAYOUT.check_level1_terms(LEVEL1_TERMS)
    with pytest.raises(IntegrityError, match="level-1 terms"):
        LAYOUT.check_level1_terms(LEVEL1_TERMS[::-1])


def test_the_mean_over_folds_is_what_is_scored(ensemble: StackerEnsemble) -> None:
    level1, goa = proteins(3)
    single = [ensemble.logits(level1, goa, fold=fold) for fold in LAYOUT.folds]
    np.testing.assert_allclose(ensemble.logits(level1, goa), np.mean(single, axis=0), rtol=1e-5, atol=1e-6)


def test_the_channel_tensor_is_what_explanations_differentiate(ensemble: StackerEnsemble) -> None:
    level1, goa = proteins(2)
    channels = ensemble.channel_inputs("MF", level1, goa).requires_grad_()
    scores = ensemble.forward("MF", channels)
    np.testing.assert_allclose(scores.detach().numpy(), ensemble.logits(level1, goa)[:, LAYOUT.of_aspect("MF")], 1e-5)
    (gradient,) = torch.autograd.grad(scores[0, 0], channels)
    assert (gradient[1] == 0).all()
    assert (gradient[0, 3, :2] != 0).any()  # a grandchild's level-1 score moves the root
    step = 1e-2 * torch.randn(channels.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ahead, behind = (ensemble.forward("MF", channels + sign * step)[0, 0] for sign in (1, -1))
    assert float((ahead - behind) / 2) == pytest.approx(float((gradient * step).sum()), rel=0.05, abs=2e-3)


def test_an_uninformed_protein_has_the_priors_and_no_annotation(ensemble: StackerEnsemble) -> None:
    neutral = ensemble.uninformed("MF")
    priors = torch.stack([ensemble.networks[fold]["MF"].priors[0] for fold in LAYOUT.folds]).mean(0)
    assert neutral.shape == (4, 4)
    torch.testing.assert_close(neutral[:, 1], priors)
    assert (neutral[:, 3] == 0).all()
    assert neutral[3, 2] == 1.0


def test_goa_channels_are_dropped_whole_and_only_in_training() -> None:
    net = network("MF", 0)
    channels = torch.ones(400, 4, 4)
    torch.testing.assert_close(net._rest(channels.transpose(0, 1)), torch.ones(4, 400, 2))
    net.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        goa = net._rest(channels.transpose(0, 1))[..., 1]
    assert ((goa == 0).all(0) | (goa == 1).all(0)).all()
    assert 0.4 < float(goa.mean()) < 0.6


def test_no_proteins_and_a_wrong_width(ensemble: StackerEnsemble) -> None:
    empty = {name: np.zeros((0, 9), np.float32) for name in ("homology", "knn")}
    assert ensemble.logits(empty).shape == (0, 5)
    with pytest.raises(IntegrityError, match="shapes"):
        ensemble.logits({name: np.zeros((1, 8), np.float32) for name in ("homology", "knn")})


def crossed() -> tuple[StackerLayout, dict[str, torch.Tensor]]:
    """A stacker with two components of the other aspects, and its tensors."""
    layout = replace(LAYOUT, channels=Channels(("homology", "knn"), ("IEA",), cross=2))
    rng = np.random.default_rng(4)
    cross = {
        aspect: CrossAspect(
            layout.other_columns(aspect),
            rng.normal(size=len(layout.other_columns(aspect))).astype(np.float32),
            rng.normal(size=(len(layout.other_columns(aspect)), 2)).astype(np.float32),
        )
        for aspect in EDGES
    }
    tensors = cross_tensors(cross)
    for fold in layout.folds:
        for aspect in EDGES:
            torch.manual_seed(10 * fold + len(aspect))
            made = layout.network(aspect)
            torch.nn.init.normal_(made.cross_blend)
            torch.nn.init.normal_(made.priors)
            tensors |= {f"fold{fold}/{aspect}/{name}": tensor for name, tensor in made.state_dict().items()}
    return layout, tensors


def test_what_the_other_aspects_say_is_restored_and_counts() -> None:
    layout, tensors = crossed()
    level1, goa = proteins(40)
    ensemble = StackerEnsemble.restore(json.loads(json.dumps(layout.to_json())), tensors)
    assert ensemble.layout == layout
    scores = ensemble.logits(level1, goa)
    for row in (0, 31, 39):  # a score depends on no other protein
        rows = slice(row, row + 1)
        alone = ensemble.logits({n: m[rows] for n, m in level1.items()}, {k: m[rows] for k, m in goa.items()})
        np.testing.assert_array_equal(alone, scores[rows])
    moved = {name: matrix.copy() for name, matrix in level1.items()}
    moved["knn"][:, 8] += 1.0  # the one CC term
    changed = ensemble.logits(moved, goa)
    assert (changed[:, layout.of_aspect("MF")] != scores[:, layout.of_aspect("MF")]).any()
    neutral = ensemble.uninformed("MF")
    others = ensemble.prior_logits()[layout.of_aspect("CC")].numpy() - ensemble.cross["MF"].mean
    np.testing.assert_allclose(neutral[0, -2:], others @ ensemble.cross["MF"].directions, rtol=1e-5)
    assert (neutral[:, -2:] == neutral[0, -2:]).all()


def test_directions_of_another_shape_or_none_are_refused() -> None:
    layout, tensors = crossed()
    document = layout.to_json()
    with pytest.raises(MissingInput, match="cross/MF"):
        StackerEnsemble.restore(document, {n: t for n, t in tensors.items() if not n.startswith("cross/MF")})
    with pytest.raises(IntegrityError, match="other aspects of CC"):
        StackerEnsemble.restore(document, {**tensors, "cross/CC/mean": torch.zeros(3)})


def test_documents_from_before_there_were_other_aspects_are_read() -> None:
    document = LAYOUT.to_json()
    del document["cross_components"]
    assert StackerLayout.from_json(document) == LAYOUT
