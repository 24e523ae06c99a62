"""The engine against the differentiable forward pass, which is held to fair-esm and transformers elsewhere."""

from __future__ import annotations

from dataclasses import replace

import esm
import numpy as np
import pytest
import torch

from shared.config.embed import EncoderConfig
from shared.nn.encoders import ENCODERS, Architecture, load_encoder
from shared.nn.encoders.encoder import TransformerEncoder
from shared.nn.encoders.engine import Engine
from shared.nn.encoders.esm2 import Esm2Shape
from shared.nn.encoders.packing import runs_of
from shared.nn.encoders.prott5 import T5Shape
from shared.nn.native.kernels import kernels

SHAPES = {
    "esm2_t6_8M": Esm2Shape(layers=3, dim=320, heads=20),
    "esm2_t12_35M": Esm2Shape(layers=3, dim=480, heads=20),
    "prott5_xl": T5Shape(layers=3, dim=256, heads=4, head_dim=128, feed_forward=512),
}
LENGTHS = [5, 300, 40, 300, 2, 77, 402]


def proteins(lengths: list[int] = LENGTHS) -> list[str]:
    rng = np.random.default_rng(1)
    return ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in lengths]


@pytest.fixture(scope="module", params=SHAPES)
def name(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def shorter(monkeypatch):
    for name, shape in SHAPES.items():
        monkeypatch.setitem(ENCODERS, name, Architecture(shape))


def load(name: str, dtype: str, **options) -> TransformerEncoder:
    encoder = load_encoder(EncoderConfig(name=name, dtype=dtype, **options), "cpu")
    # Gains and biases that are not 1 and 0, so that a swapped one shows.
    generator = torch.Generator().manual_seed(0)
    for parameter in encoder.network.module.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return encoder


def cosine_distance(found: np.ndarray, wanted: np.ndarray) -> float:
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    return float((1 - cosine).max())


@pytest.mark.parametrize("compiled", ["never", "always"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_those_of_the_differentiable_pass(name: str, dtype: str, compiled: str) -> None:
    encoder = load(name, dtype)
    engine = Engine(encoder.network.stack(), getattr(torch, dtype), 410, compiled)
    assert (engine.native is None) == (compiled == "never" or kernels()[0] is None)
    embedded = torch.randn(sum(LENGTHS), encoder.dim, generator=torch.Generator().manual_seed(2))
    before = embedded.clone()
    found = engine.states(embedded, LENGTHS)
    wanted = encoder.network.hidden(embedded, runs_of(LENGTHS))
    assert torch.equal(embedded, before), "the input is left alone"
    assert found.dtype == torch.float32
    error = float((found - wanted).norm() / wanted.norm())
    assert error <= (2e-6 if dtype == "float32" else 8e-3), error


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_vector_depends_on_nothing_but_its_sequence(name: str, dtype: str) -> None:
    encoder = load(name, dtype, window=300, overlap=20)
    sequences = proteins()
    together = encoder.embed(sequences)
    assert encoder.order_free
    assert np.array_equal(encoder.embed(sequences[::-1])[::-1], together)
    assert np.array_equal(np.concatenate([encoder.embed([s]) for s in sequences]), together)
    for row, sequence in enumerate(sequences):
        assert np.allclose(encoder.residues(sequence).mean(0).numpy(), together[row], atol=1e-5)


def test_bfloat16_is_within_its_tolerance_of_float32(name: str) -> None:
    sequences = proteins([30, 150, 370, 900])
    half, single = load(name, "bfloat16").embed(sequences), load(name, "float32").embed(sequences)
    assert not np.array_equal(half, single)
    assert cosine_distance(half, single) <= 2e-5
    assert np.allclose(half, single, atol=0.05 * float(single.std()))


@pytest.mark.parametrize(("dtype", "limit"), [("float32", 1e-6), ("bfloat16", 2e-5)])
def test_the_engine_is_fair_esm(dtype: str, limit: float, tmp_path) -> None:
    torch.manual_seed(5)
    shape = SHAPES["esm2_t6_8M"]
    fair = esm.model.esm2.ESM2(num_layers=shape.layers, embed_dim=shape.dim, attention_heads=shape.heads).eval()
    with torch.no_grad():
        for parameter in fair.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    path = tmp_path / "esm2.pt"
    torch.save({"model": {f"encoder.sentence_encoder.{key}": value for key, value in fair.state_dict().items()}}, path)
    encoder = load_encoder(EncoderConfig(name="esm2_t6_8M", weights=str(path), dtype=dtype), "cpu")
    wanted = []
    for sequence in proteins():
        tokens = torch.tensor([[fair.cls_idx, *encoder.tokenise(sequence), fair.eos_idx]])
        with torch.no_grad():
            states = fair(tokens, repr_layers=[shape.layers])["representations"][shape.layers]
        wanted.append(states[0, 1:-1].mean(0).numpy())
    assert cosine_distance(encoder.embed(proteins()), np.stack(wanted)) <= limit


def test_the_record_keeps_the_precision(name: str) -> None:
    encoder = load_encoder(EncoderConfig(name=name, dtype="bfloat16"), "cpu")
    record = encoder.describe()
    assert record["options"]["dtype"] == "bfloat16"
    again = load_encoder(record, "cpu")
    assert again.dtype == "bfloat16"
    assert np.array_equal(again.embed(proteins()), encoder.embed(proteins()))


def test_gradients_stay_float32(name: str) -> None:
    half, single = load(name, "bfloat16"), load(name, "float32")
    embedded = half.embed_tokens(proteins()[0])[None]
    assert torch.equal(half.forward_embedded(embedded), single.forward_embedded(embedded))


def test_small_models_are_not_worth_a_compiler(monkeypatch) -> None:
    encoder = load_encoder(EncoderConfig(name="esm2_tiny"), "cpu")
    assert encoder.engine == "torch+onednn"
    wide = Esm2Shape(layers=1, dim=320, heads=20)
    stack = replace(ENCODERS["esm2_tiny"], shape=wide).build().stack()
    compiled = kernels()[0].name if kernels()[0] else "torch"
    assert Engine(stack, torch.float32, 10).name == f"{compiled}+onednn"
    half = "+onednn" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ""
    assert Engine(stack, torch.bfloat16, 10).name == f"{compiled}{half}"


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1e-6), ("bfloat16", 2e-5)])
def test_without_onednn_products_are_torchs_own(name: str, dtype: str, least: float, monkeypatch) -> None:
    usual = load(name, dtype).embed(proteins())
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = load(name, dtype)
    assert not plain.engine.endswith("onednn")
    assert cosine_distance(usual, plain.embed(proteins())) <= least


def test_out_of_memory_halves_the_batch(monkeypatch) -> None:
    """What a GPU does when a batch is too large, done on the CPU."""
    encoder = load_encoder(EncoderConfig(name="esm2_tiny", tokens_per_batch=2000), "cpu")
    wanted = encoder.embed(proteins())
    encoder.order_free = False
    states, tried = encoder._engine.states, []

    def small(embedded, lengths):
        tried.append(len(lengths))
        if len(lengths) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return states(embedded, lengths)

    monkeypatch.setattr(encoder._engine, "states", small)
    assert np.allclose(encoder.embed(proteins()), wanted, atol=1e-5)
    assert max(tried) > 2

    def never(embedded, lengths):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(encoder._engine, "states", never)
    with pytest.raises(torch.OutOfMemoryError):
        encoder.embed(proteins())
