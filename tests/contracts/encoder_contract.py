"""What every registered encoder must do; a test file subclasses this with a `name` fixture of class scope."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from shared.config.embed import EncoderConfig
from shared.errors import DataError, IntegrityError
from shared.nn.encoders import Encoder, load_encoder

WINDOW, OVERLAP = 40, 7
SHORT = "MKTAYIAKQRQISFVKSHFSRQ"
LONG = (SHORT + "LEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQ") * 3  # several windows
RARE = "MKTUZOBXJ*ACD"
MANY = [SHORT, LONG, RARE, "M", SHORT[::-1], LONG[5:45], SHORT]


def load(name: str, **options: object) -> Encoder:
    return load_encoder(EncoderConfig(name=name, **{"window": WINDOW, "overlap": OVERLAP, **options}), "cpu")


class EncoderContract:
    """Subclass, and give a `name` fixture of class scope: a key of ENCODERS."""

    @pytest.fixture(scope="class")
    @classmethod
    def name(cls) -> str:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls, name: str) -> Encoder:
        return load(name)

    def test_is_an_encoder_with_frozen_random_weights_that_say_so(self, encoder: Encoder, name: str) -> None:
        assert isinstance(encoder, Encoder)
        assert (encoder.name, encoder.weights_label) == (name, "random-init(0)")
        assert not encoder.embed_tokens(SHORT).requires_grad

    def test_pooled_vectors_tell_proteins_apart(self, encoder: Encoder) -> None:
        vectors = encoder.embed(MANY)
        assert vectors.shape == (len(MANY), encoder.dim)
        assert vectors.dtype == np.float32
        assert np.isfinite(vectors).all()
        assert np.array_equal(vectors[0], vectors[-1])
        assert len(np.unique(vectors, axis=0)) == len(MANY) - 1
        assert encoder.embed([]).shape == (0, encoder.dim)

    def test_what_else_is_in_the_call_does_not_matter(self, encoder: Encoder) -> None:
        together, alone = encoder.embed(MANY), np.concatenate([encoder.embed([s]) for s in MANY])
        assert np.array_equal(encoder.embed(MANY[::-1])[::-1], together) if encoder.order_free else True
        assert np.array_equal(alone, together) if encoder.order_free else np.allclose(alone, together, atol=1e-5)

    def test_threads_change_no_bit(self, encoder: Encoder) -> None:
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            one = encoder.embed(MANY)
            torch.set_num_threads(3)
            assert np.array_equal(encoder.embed(MANY), one)
            assert torch.get_num_threads() == 3
        finally:
            torch.set_num_threads(before)

    @pytest.mark.parametrize("sequence", [SHORT, LONG, RARE], ids=["short", "windows", "rare letters"])
    def test_residue_states_average_to_the_pooled_vector(self, encoder: Encoder, sequence: str) -> None:
        states = encoder.residues(sequence)
        assert states.shape == (len(sequence), encoder.dim)
        assert np.allclose(states.mean(0).numpy(), encoder.embed([sequence])[0], atol=1e-5)

    @pytest.mark.parametrize("sequence", [SHORT, LONG, RARE], ids=["short", "windows", "rare letters"])
    def test_the_embedded_path_is_the_token_path(self, encoder: Encoder, sequence: str) -> None:
        embedded = encoder.embed_tokens(sequence)
        assert len(embedded) == len(sequence) == len(encoder.tokenise(sequence))
        pooled = encoder.forward_embedded(torch.stack([embedded, embedded.flip(0), embedded]))
        expected = encoder.embed([sequence])[0]
        assert np.allclose(encoder.forward_embedded(embedded[None])[0].numpy(), expected, atol=1e-6)
        assert np.allclose(pooled[[0, 2]].numpy(), expected, atol=1e-6)
        assert not np.allclose(pooled[1].numpy(), expected, atol=1e-4)

    def test_gradients_reach_every_residue_and_agree_with_differences(self, encoder: Encoder) -> None:
        embedded = encoder.embed_tokens(LONG)[None].requires_grad_()
        weights = torch.linspace(-1, 1, encoder.dim)
        (gradient,) = torch.autograd.grad(encoder.forward_embedded(embedded)[0] @ weights, embedded)
        assert (gradient[0].norm(dim=-1) > 0).all()
        direction = gradient / gradient.norm()
        step = 1e-2 * embedded.detach().norm(dim=-1).mean()
        with torch.no_grad():
            ahead, behind = (
                encoder.forward_embedded(embedded + sign * step * direction)[0] @ weights for sign in (1, -1)
            )
        assert float((ahead - behind) / (2 * step)) == pytest.approx(float(gradient.norm()), rel=2e-2)

    def test_mean_residue_is_the_mean_of_the_twenty(self, encoder: Encoder) -> None:
        assert torch.allclose(encoder.mean_residue(), encoder.embed_tokens("ACDEFGHIKLMNPQRSTVWY").mean(0))

    def test_a_masked_residue_is_unseen(self, encoder: Encoder) -> None:
        at = [3, len(LONG) // 2]
        other = "".join("W" if i in at else letter for i, letter in enumerate(LONG))
        assert other != LONG
        masked = encoder.masked(LONG, at)
        assert torch.equal(masked, encoder.masked(other, at))
        assert not np.allclose(masked.numpy(), encoder.embed([LONG])[0], atol=1e-4)
        assert np.allclose(encoder.masked(LONG, []).numpy(), encoder.embed([LONG])[0], atol=1e-6)
        assert encoder.mask_residue().shape == encoder.mean_residue().shape
        with pytest.raises(IndexError, match="-1"):
            encoder.masked(SHORT, [-1])

    def test_an_empty_sequence_is_refused(self, encoder: Encoder) -> None:
        with pytest.raises(DataError, match="empty"):
            encoder.embed([SHORT, ""])

    def test_its_record_brings_back_the_same_encoder(self, encoder: Encoder) -> None:
        record = json.loads(json.dumps(encoder.describe()))
        again = load_encoder(record, "cpu")
        assert again.describe() == record
        assert np.array_equal(again.embed(MANY), encoder.embed(MANY))
        with pytest.raises(IntegrityError, match="sha256"):
            load_encoder({**record, "weights_sha256": "0" * 64}, "cpu")

    def test_the_seed_decides_and_global_generators_are_untouched(self, encoder: Encoder, name: str) -> None:
        torch.manual_seed(1)
        np.random.seed(1)
        before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
        other = load(name, weights="random-init(1)")
        other.embed([SHORT])
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], before_numpy)
        assert other.weights_sha256 != encoder.weights_sha256
        assert not np.allclose(other.embed([SHORT]), encoder.embed([SHORT]), atol=1e-3)
