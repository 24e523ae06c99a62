"""ESM-2 against two independent implementations: fair-esm and transformers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import esm
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import EsmModel

from shared.config.embed import EncoderConfig
from shared.nn.encoders import ENCODERS, load_encoder
from shared.nn.encoders.esm2 import TOKENS, Esm2Network

SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLIE", "ACDEFGHIKLMNPQRSTVWYXBUZO", "M"]
SHAPE = ENCODERS["esm2_tiny"].shape


@pytest.fixture(scope="module")
def fair() -> esm.model.esm2.ESM2:
    """fair-esm's own module; gains and biases are random too, so that a swapped one shows."""
    torch.manual_seed(5)
    model = esm.model.esm2.ESM2(num_layers=SHAPE.layers, embed_dim=SHAPE.dim, attention_heads=SHAPE.heads).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def fair_file(fair, tmp_path_factory) -> Path:
    """A checkpoint laid out like the published ones."""
    path = tmp_path_factory.mktemp("fair") / "esm2.pt"
    state = {
        ("encoder." if name.startswith("lm_head") else "encoder.sentence_encoder.") + name: value
        for name, value in fair.state_dict().items()
    }
    torch.save({"cfg": {"model": argparse.Namespace(encoder_layers=SHAPE.layers)}, "model": state}, path)
    return path


def fair_states(fair, sequence: str, masked: tuple[int, ...] = ()) -> torch.Tensor:
    ids = [
        fair.alphabet.mask_idx if i in masked else fair.alphabet.get_idx(letter) for i, letter in enumerate(sequence)
    ]
    tokens = torch.tensor([[fair.cls_idx, *ids, fair.eos_idx]])
    with torch.no_grad():
        return fair(tokens, repr_layers=[SHAPE.layers])["representations"][SHAPE.layers][0, 1:-1]


def test_the_alphabet_is_fair_esms() -> None:
    alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
    assert list(TOKENS) == alphabet.all_toks
    letters = "".join(chr(code) for code in range(33, 127))
    assert Esm2Network.alphabet.encode(letters).tolist() == [alphabet.get_idx(letter) for letter in letters]


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_fair_esm_checkpoint_gives_fair_esm_vectors(fair, fair_file, sequence: str) -> None:
    encoder = load_encoder(EncoderConfig(name="esm2_tiny", weights=str(fair_file)), "cpu")
    assert torch.allclose(encoder.residues(sequence), fair_states(fair, sequence), atol=1e-5)
    assert np.allclose(encoder.embed([sequence])[0], fair_states(fair, sequence).mean(0).numpy(), atol=1e-5)


@pytest.mark.parametrize("positions", [(0,), (3, 4, 17), tuple(range(31))], ids=["one", "three", "all"])
def test_mask_tokens_mean_what_they_mean_to_fair_esm(fair, fair_file, positions) -> None:
    encoder = load_encoder(EncoderConfig(name="esm2_tiny", weights=str(fair_file)), "cpu")
    expected = fair_states(fair, SEQUENCES[0], positions).mean(0)
    assert torch.allclose(encoder.masked(SEQUENCES[0], positions), expected, atol=1e-5)


def test_transformers_folder_gives_transformers_vectors(fair_file, tmp_path) -> None:
    source = load_encoder(EncoderConfig(name="esm2_tiny", weights=str(fair_file)), "cpu").network.module
    reference = EsmModel(source.config, add_pooling_layer=False).eval()
    reference.load_state_dict(source.state_dict(), strict=False)
    state = {f"esm.{name}": value.contiguous() for name, value in reference.state_dict().items()}
    save_file({**state, "lm_head.bias": torch.zeros(33)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "esm", "num_hidden_layers": SHAPE.layers, "num_attention_heads": SHAPE.heads})
    )
    encoder = load_encoder(EncoderConfig(name="esm2_tiny", weights=str(tmp_path)), "cpu")
    tokens = torch.ones(len(SEQUENCES), 40, dtype=torch.long)
    for row, sequence in enumerate(SEQUENCES):
        tokens[row, : len(sequence) + 2] = torch.tensor([0, *encoder.tokenise(sequence), 2])
    with torch.no_grad():
        states = reference(input_ids=tokens, attention_mask=(tokens != 1).long()).last_hidden_state
    for row, sequence in enumerate(SEQUENCES):
        assert torch.allclose(encoder.residues(sequence), states[row, 1 : len(sequence) + 1], atol=1e-5)


def test_random_start_is_scaled_like_transformers() -> None:
    torch.manual_seed(0)
    encoder = load_encoder(EncoderConfig(name="esm2_tiny"), "cpu")
    theirs = EsmModel(encoder.network.module.config, add_pooling_layer=False).requires_grad_(False)
    theirs = dict(theirs.named_parameters())
    for name, ours in encoder.network.module.named_parameters():
        assert float(ours.std(correction=0)) == pytest.approx(
            float(theirs[name].std(correction=0)), rel=0.1, abs=1e-6
        ), name
        assert float(ours.mean()) == pytest.approx(float(theirs[name].mean()), abs=4e-3), name


def test_gradients_are_exact_in_double_precision() -> None:
    encoder = load_encoder(EncoderConfig(name="esm2_tiny", window=8, overlap=2), "cpu")
    encoder.network.module.double()
    embedded = encoder.embed_tokens("MKTAYIAKQR")[None, :, :].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda e: encoder.forward_embedded(e)[:, :2], embedded, fast_mode=True)
