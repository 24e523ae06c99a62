"""Heads: column order, constant terms, and gradients down to the raw vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shared.models.feature_space import FeatureSpace
from shared.models.features import Features
from shared.nn.heads import HeadRegistry, MlpModel, MlpNetwork

GROUPS = ("BP", "MF", "BP", "CC", "MF", "BP")


@pytest.fixture
def features() -> Features:
    rng = np.random.default_rng(0)
    dense = {
        "esm2": rng.normal(3, 2, size=(12, 4)).astype(np.float16),
        "text": rng.random((12, 3)).astype(np.float16),
        "t5": np.zeros((12, 0), np.float16),
    }
    return Features([f"P{i}" for i in range(12)], ["M"] * 12, dense, np.arange(12) % 2 + 5, None)


@pytest.fixture
def model(features: Features) -> MlpModel:
    space = FeatureSpace.fit(features, np.arange(12), version="v2", normalize=True, min_taxon_proteins=3)
    torch.manual_seed(0)
    return MlpModel(MlpNetwork(space, GROUPS, 8, 0.1), space, tuple(f"GO:{i}" for i in range(6)))


def test_logits_stand_in_term_order_whatever_the_group_order() -> None:
    heads = HeadRegistry(3, GROUPS)
    heads.set_bias(np.arange(6, dtype=np.float32))
    np.testing.assert_array_equal(heads(torch.zeros(2, 3)).detach().numpy(), [[0, 1, 2, 3, 4, 5]] * 2)
    assert {name: head.out_features for name, head in heads.items()} == {"BP": 3, "CC": 1, "MF": 2}


def test_constant_terms_ignore_the_protein() -> None:
    heads = HeadRegistry(3, GROUPS)
    chosen = np.array([True, False, False, True, True, False])
    heads.set_constant(chosen, np.arange(6, dtype=np.float32))
    logits = heads(torch.randn(5, 3)).detach().numpy()
    np.testing.assert_array_equal(logits[:, chosen], [[0, 3, 4]] * 5)
    assert (logits[:, ~chosen].std(0) > 0).all()


def test_the_network_transforms_as_the_feature_space_does(features: Features, model: MlpModel) -> None:
    blocks = model.blocks(features, np.arange(12))
    matrix = model.space.matrix(features, np.arange(12))
    for name, part in model.space.slices().items():
        layer = model.network.inputs[name]
        expected = torch.nn.functional.linear(torch.from_numpy(matrix[:, part]), layer.linear.weight, layer.linear.bias)
        torch.testing.assert_close(layer(blocks[name]), expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_raw_vectors(features: Features, model: MlpModel) -> None:
    blocks = {name: block.requires_grad_() for name, block in model.blocks(features, np.array([3])).items()}
    model.network(blocks)[0, 2].backward()
    assert all(block.grad is not None and block.grad.abs().sum() > 0 for block in blocks.values())
    esm2, step = blocks["esm2"].detach(), 1e-2
    numeric = []
    for column in range(4):
        shifted = [
            model.network({**blocks, "esm2": esm2 + sign * step * torch.eye(4)[column]})[0, 2].item()
            for sign in (1, -1)
        ]
        numeric.append((shifted[0] - shifted[1]) / (2 * step))
    np.testing.assert_allclose(blocks["esm2"].grad[0].numpy(), numeric, atol=2e-3)


def test_absent_modalities_have_no_block(model: MlpModel) -> None:
    assert model.network.names == ("esm2", "text", "taxon")
    assert set(model.network.inputs) == {"esm2", "text", "taxon"}


def test_a_protein_loses_modalities_in_training_only_and_never_all(features: Features, model: MlpModel) -> None:
    network = MlpNetwork(model.space, GROUPS, 8, 0.0, modality_dropout=0.7)
    assert len(network.names) == 3
    ones = [torch.ones(4000, 2) for _ in network.names]
    assert network.eval()._thinned(ones) is ones
    torch.manual_seed(1)
    thinned = torch.stack([block[:, 0] for block in network.train()._thinned(ones)], dim=1)
    assert set(thinned.sum(1).round(decimals=4).tolist()) == {3.0}  # as much goes on as without
    kept = (thinned > 0).float()
    assert kept.sum(1).min() >= 1
    whole = 0.7**3  # all are lost: then none is
    assert kept.mean().item() == pytest.approx(0.3 + whole, abs=0.02)
