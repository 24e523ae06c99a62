"""A residue path through a real encoder architecture with random weights and a random head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from shared.config.embed import EncoderConfig
from shared.nn.encoders import load_encoder

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


class EncoderPath:
    """Residues -> encoder -> tanh of a random linear head; satisfies `ResiduePath`."""

    model = "encoder"

    def __init__(self, name: str, sequence: str, terms: int, window: int) -> None:
        self.encoder = load_encoder(EncoderConfig(name=name, window=window), "cpu")
        self.sequence, self.covered = sequence, np.ones(len(sequence), bool)
        generator = torch.Generator().manual_seed(3)
        self.weights = torch.randn(self.encoder.dim, terms, generator=generator) / self.encoder.dim**0.5

    def embed(self, sequence: str) -> torch.Tensor:
        return self.encoder.embed_tokens(sequence).detach()[None]

    def inputs(self) -> torch.Tensor:
        return self.embed(self.sequence)

    def baseline(self) -> torch.Tensor:
        return self.encoder.mean_residue().detach().expand(1, len(self.sequence), -1).clone()

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.encoder.forward_embedded(inputs) @ self.weights)

    def masked_logits(self, groups: Sequence[Sequence[int]]) -> torch.Tensor:
        with torch.inference_mode():
            return torch.stack([torch.tanh(self.encoder.masked(self.sequence, g) @ self.weights) for g in groups])


def encoder_path(name: str, length: int, *, terms: int = 5, window: int = 1022, seed: int = 0) -> EncoderPath:
    """A path of one random sequence."""
    sequence = "".join(np.random.default_rng(seed).choice(list(LETTERS), length))
    return EncoderPath(name, sequence, terms, window)
