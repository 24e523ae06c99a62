"""The T5 encoder against transformers' own forward pass."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import T5EncoderModel
from transformers.models.t5.modeling_t5 import T5Attention

from shared.config.embed import EncoderConfig
from shared.nn.encoders import load_encoder
from shared.nn.encoders.prott5 import T5Network, bucket

SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQLEERLGLIE" * 10, "ACDEFGHIKLMNPQRSTVWYXBUZO", "M"]


def test_the_alphabet_is_prott5s() -> None:
    # As printed by the published tokeniser (github.com/agemagician/ProtTrans/issues/42).
    assert T5Network.alphabet.encode("ALGVSREDTIPKFQNYMHWCX").tolist() == list(range(3, 24))
    assert T5Network.alphabet.encode("UZOBJ*-").tolist() == [23] * 7


def test_buckets_are_transformers() -> None:
    distances = torch.arange(-3000, 3001)
    assert torch.equal(bucket(distances), T5Attention._relative_position_bucket(distances))


@pytest.fixture(scope="module")
def reference() -> T5EncoderModel:
    torch.manual_seed(3)
    model = T5EncoderModel(load_encoder(EncoderConfig(name="prott5_tiny"), "cpu").network.module.config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            if "relative_attention_bias" in name:
                parameter.mul_(10)
    return model


@pytest.fixture
def folder(reference, tmp_path):
    """A checkpoint like the published one: half precision, with a decoder's leftovers."""
    state = {
        name: value.half().contiguous()
        for name, value in reference.state_dict().items()
        if name != "encoder.embed_tokens.weight"
    }
    save_file({**state, "decoder.final_layer_norm.weight": torch.ones(64)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "num_layers": 4, "num_heads": 4}))
    return tmp_path


def test_transformers_folder_gives_transformers_vectors(reference, folder) -> None:
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.half().float())
    encoder = load_encoder(EncoderConfig(name="prott5_tiny", weights=str(folder)), "cpu")
    longest = max(map(len, SEQUENCES)) + 1
    tokens = torch.zeros(len(SEQUENCES), longest, dtype=torch.long)
    for row, sequence in enumerate(SEQUENCES):
        tokens[row, : len(sequence) + 1] = torch.tensor([*encoder.tokenise(sequence), 1])
    lengths = torch.tensor([len(sequence) + 1 for sequence in SEQUENCES])
    mask = (torch.arange(longest)[None] < lengths[:, None]).long()
    with torch.no_grad():
        states = reference(input_ids=tokens, attention_mask=mask).last_hidden_state
    for row, sequence in enumerate(SEQUENCES):
        assert torch.allclose(encoder.residues(sequence), states[row, : len(sequence)], atol=2e-5)


def test_masked_is_the_token_path_with_extra_id_0(reference, folder) -> None:
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.half().float())
    encoder = load_encoder(EncoderConfig(name="prott5_tiny", weights=str(folder)), "cpu")
    tokens = torch.tensor([[*encoder.tokenise(SEQUENCES[1]), 1]])
    tokens[0, [2, 5]] = 127
    with torch.no_grad():
        expected = reference(input_ids=tokens).last_hidden_state[0, :-1].mean(0)
    assert torch.allclose(encoder.masked(SEQUENCES[1], [5, 2]), expected, atol=1e-5)


def test_random_start_is_scaled_like_transformers() -> None:
    torch.manual_seed(0)
    encoder = load_encoder(EncoderConfig(name="prott5_tiny"), "cpu")
    theirs = T5EncoderModel(encoder.network.module.config).requires_grad_(False)
    theirs = dict(theirs.named_parameters())
    for name, ours in encoder.network.module.named_parameters():
        assert float(ours.std(correction=0)) == pytest.approx(
            float(theirs[name].std(correction=0)), rel=0.15, abs=1e-6
        ), name
