"""Every entry keeps the encoder's contract; the published sizes are checked without their memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts.encoder_contract import EncoderContract

from shared.config.embed import EncoderConfig
from shared.errors import ConfigError, IntegrityError, MissingInput
from shared.nn.encoders import ENCODERS, Architecture, encoder_config, load_encoder
from shared.nn.encoders.esm2 import Esm2Shape

TINY = ("esm2_tiny", "prott5_tiny")


def narrow(architecture: Architecture) -> Architecture:
    """The same family and number of heads, small enough for a test."""
    shape = architecture.shape
    if isinstance(shape, Esm2Shape):
        return replace(architecture, shape=replace(shape, layers=2, dim=shape.heads * 8))
    return replace(architecture, shape=replace(shape, layers=2, dim=64, head_dim=8, feed_forward=128))


@pytest.mark.parametrize("name", ENCODERS, scope="class")
class TestEveryEncoder(EncoderContract):
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def small(cls, name: str):
        with pytest.MonkeyPatch.context() as patch:
            if name not in TINY:
                patch.setitem(ENCODERS, name, narrow(ENCODERS[name]))
            yield


@pytest.mark.parametrize(
    ("name", "layers", "dim", "parameters"),
    [
        ("esm2_t6_8M", 6, 320, 7.4e6),
        ("esm2_t12_35M", 12, 480, 33.5e6),
        ("esm2_t30_150M", 30, 640, 148e6),
        ("esm2_t33_650M", 33, 1280, 650e6),
        ("esm2_t36_3B", 36, 2560, 2.84e9),
        ("prott5_xl", 24, 1024, 1.208e9),
    ],
)
def test_published_sizes(name: str, layers: int, dim: int, parameters: float) -> None:
    with torch.device("meta"):
        network = ENCODERS[name].build()
    assert (ENCODERS[name].shape.layers, network.shape.dim) == (layers, dim)
    assert sum(p.numel() for p in network.module.parameters()) == pytest.approx(parameters, rel=0.01)
    assert ENCODERS[name].hub is not None


def test_an_unknown_name_is_a_config_error_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="Did you mean esm2_tiny") as caught:
        load_encoder(EncoderConfig(name="esm2_tinny"))
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("record", "error"),
    [
        ({"absent": True}, MissingInput),
        ({}, IntegrityError),
        (
            {
                "name": "esm2_tiny",
                "weights": "random-init(0)",
                "weights_sha256": "xyz",
                "options": {"pooling": 1, "window": 9, "overlap": 0},
            },
            IntegrityError,
        ),
        (
            {
                "name": "esm2_tiny",
                "weights": "random-init(0)",
                "weights_sha256": "0" * 64,
                "options": {"pooling": 0, "window": 9, "overlap": 0},
            },
            IntegrityError,
        ),
    ],
    ids=["absent", "empty", "not a sha256", "other pooling"],
)
def test_a_record_that_cannot_be_honoured_is_refused(record, error) -> None:
    with pytest.raises(error):
        encoder_config(record)


def test_random_weights_are_the_same_everywhere() -> None:
    # A change of these numbers makes every run with random weights another run.
    digests = {name: load_encoder(EncoderConfig(name=name), "cpu").weights_sha256[:16] for name in TINY}
    assert digests == {"esm2_tiny": "51f7d5988a1dd8ac", "prott5_tiny": "5a409f0ad1616612"}


@pytest.mark.parametrize("name", TINY)
def test_the_longest_protein_of_a_proteome(name: str) -> None:
    rng = np.random.default_rng(0)
    sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 8891))
    encoder = load_encoder(EncoderConfig(name=name), "cpu")
    states = encoder.residues(sequence)
    assert states.shape == (8891, encoder.dim)
    assert np.allclose(states.double().mean(0).numpy(), encoder.embed([sequence])[0], atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_packing_is_the_same_function(name: str) -> None:
    """What a GPU does, done on the CPU: packed windows of many lengths."""
    rng = np.random.default_rng(1)
    sequences = [
        "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in (5, 300, 40, 300, 1, 77, 5, 900)
    ]
    encoder = load_encoder(EncoderConfig(name=name, window=400, overlap=20, tokens_per_batch=500), "cpu")
    alone = encoder.embed(sequences)
    encoder.order_free = False
    assert any(len(batch) > 1 for batch in encoder._batches(sequences))
    assert np.allclose(encoder.embed(sequences), alone, atol=1e-5)
