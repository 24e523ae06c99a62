from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.models.base import LOGIT_LIMIT
from shared.models.features import Features
from shared.nn.cnn import MASK, RESIDUES, CnnModel, CnnNetwork, filter_widths, pad, residue_table, tokens_of

GROUPS = ["BP", "MF", "MF", "CC", "BP", "MF", "CC"]
TERMS = tuple(f"GO:{number:07d}" for number in range(len(GROUPS)))


def make_model(layers: int = 1, kernel: int = 7, channels: int = 12) -> CnnModel:
    """An unfitted network whose outputs are far from their limits."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = CnnNetwork(GROUPS, channels, kernel, layers)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.4)
    return CnnModel(network, TERMS)


def features_of(sequences: list[str]) -> Features:
    return Features([str(place) for place in range(len(sequences))], sequences, {}, np.zeros(len(sequences), int), None)


def random_sequence(length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list(RESIDUES), length))


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("length", [1, 6, 50, 8891])
def test_any_length_gives_finite_logits_that_the_residue_path_repeats(layers: int, length: int) -> None:
    model, sequence = make_model(layers), random_sequence(length)
    stored = model.logits(features_of([sequence]), np.array([0]))
    assert stored.shape == (1, len(TERMS))
    assert np.isfinite(stored).all()
    path = model.forward_embedded(model.embed_tokens(sequence)[None])
    np.testing.assert_array_equal(path.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).numpy(), stored)


@pytest.mark.parametrize("layers", [1, 3])
def test_padding_changes_nothing(layers: int) -> None:
    model = make_model(layers)
    sequences = [random_sequence(length, length) for length in (3, 40, 17)]
    tokens, present = pad([tokens_of(sequence) for sequence in sequences])
    with torch.no_grad():
        together = model.network(model.network.embed(tokens), present)
    alone = torch.cat([model.forward_embedded(model.embed_tokens(sequence)[None]) for sequence in sequences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_proteins_score_is_the_same_bytes_whoever_else_is_asked_for() -> None:
    model = make_model()
    features = features_of([random_sequence(length, length) for length in (30, 90, 30, 200)])
    every = model.logits(features, np.arange(4))
    for row in range(4):
        np.testing.assert_array_equal(model.logits(features, np.array([row]))[0], every[row])


def test_restored_from_json_gives_identical_logits() -> None:
    model = make_model(layers=2)
    copy = CnnModel.restore(json.loads(json.dumps(model.architecture())), model.arrays())
    features = features_of([random_sequence(120)])
    np.testing.assert_array_equal(copy.logits(features, np.array([0])), model.logits(features, np.array([0])))
    assert copy.architecture() == model.architecture()


def test_mask_and_unknown_residues_are_the_mean_residue() -> None:
    model = make_model()
    mean = model.embed_tokens(RESIDUES).mean(0)
    torch.testing.assert_close(model.mean_residue(), mean)
    torch.testing.assert_close(residue_table()[MASK], mean)
    for letter in "XBZUOJ":
        torch.testing.assert_close(model.embed_tokens(letter)[0], mean)


def test_columns_follow_the_terms_not_the_groups() -> None:
    network = make_model().network
    with torch.no_grad():
        network.heads.set_constant(np.ones(len(TERMS), bool), np.arange(len(TERMS), dtype=np.float32))
    logits = CnnModel(network, TERMS).logits(features_of([random_sequence(20)]), np.array([0]))
    np.testing.assert_array_equal(logits[0], np.arange(len(TERMS)))


@pytest.mark.parametrize("layers", [1, 3])
def test_gradients_of_the_residue_path_are_right(layers: int) -> None:
    model = make_model(layers)
    model.network.double()
    embedded = model.embed_tokens("MKTAYIAKQRGKS")[None].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: model.forward_embedded(e)[:, :2], embedded, fast_mode=True)
    assert all(parameter.grad is None for parameter in model.network.parameters())


@settings(max_examples=40)
@given(st.integers(1, 90), st.integers(1, 3), st.data())
def test_masked_groups_equal_masking_and_scoring_anew(length: int, layers: int, data: st.DataObject) -> None:
    model, sequence = make_model(layers, kernel=5), random_sequence(length, seed=1)
    group = st.lists(st.integers(0, length - 1), unique=True, max_size=8)
    groups = data.draw(st.lists(group, min_size=1, max_size=6))
    expected = torch.stack([model.masked_logits(sequence, positions) for positions in groups])
    torch.testing.assert_close(model.masked_group_logits(sequence, groups), expected, atol=1e-5, rtol=1e-5)


def test_masking_writes_the_mask_token() -> None:
    model, sequence = make_model(), random_sequence(30)
    embedded = model.embed_tokens(sequence).clone()
    embedded[[4, 9]] = residue_table()[MASK]
    torch.testing.assert_close(model.masked_logits(sequence, [4, 9]), model.forward_embedded(embedded[None])[0])
    assert not torch.equal(model.masked_logits(sequence, [4, 9]), model.masked_logits(sequence, []))


def test_masked_groups_are_batched_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sequence = make_model(), random_sequence(400)
    groups = [[place] for place in range(400)]
    whole = model.masked_group_logits(sequence, groups)
    monkeypatch.setattr("shared.nn.cnn.MASKED_RESIDUES", 64)
    torch.testing.assert_close(model.masked_group_logits(sequence, groups), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("channels", "kernel"), [(256, 31), (8, 3), (3, 1), (1, 9), (50, 15)])
def test_filters_of_all_widths_add_up(channels: int, kernel: int) -> None:
    widths = filter_widths(channels, kernel)
    assert sum(widths.values()) == channels
    assert max(widths) == kernel
    assert all(width % 2 == 1 for width in widths)


def test_an_empty_sequence_is_refused() -> None:
    with pytest.raises(DataError, match="empty sequence"):
        pad([tokens_of("MK"), tokens_of("")])
