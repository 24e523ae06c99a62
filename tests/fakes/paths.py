"""Tiny functions whose attributions are known by hand, as paths that the explainers take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class LinearPath:
    """F(e) = sum_i w_i . e_i + b per term: every attribution is exact and known.

    Args:
        embedded: residues, [L, D].
        weights: [term, L, D].
        covered: False residues have no weight, as if the model never saw them.
    """

    model = "linear"

    def __init__(self, embedded: torch.Tensor, weights: torch.Tensor, covered: np.ndarray | None = None) -> None:
        self.covered = np.ones(len(embedded), bool) if covered is None else covered
        self.embedded = embedded
        self.weights = weights * torch.from_numpy(self.covered)[None, :, None]

    def inputs(self) -> torch.Tensor:
        return self.embedded[None]

    def baseline(self) -> torch.Tensor:
        return self.embedded.mean(0).expand(1, len(self.embedded), -1).clone()

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bld,tld->bt", inputs, self.weights) + 0.5

    def embed(self, sequence: str) -> torch.Tensor:
        generator = torch.Generator().manual_seed(99)
        table = torch.randn(128, self.embedded.shape[1], generator=generator)
        return table[[ord(letter) for letter in sequence]][None]

    def masked_logits(self, groups: Sequence[Sequence[int]]) -> torch.Tensor:
        rows = []
        for group in groups:
            masked = self.embedded.clone()
            masked[list(group)] = 0.0
            rows.append(self.logits(masked[None])[0])
        return torch.stack(rows)


class ReluPath(LinearPath):
    """F(e) = relu(linear): one kink, so quadrature needs more than one node."""

    model = "relu"

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.relu(super().logits(inputs))


class CubicPath(LinearPath):
    """F(e) = linear ** 3: smooth, exact from two Gauss-Legendre nodes on."""

    model = "cubic"

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().logits(inputs) ** 3


class JaggedPath(LinearPath):
    """A function that wiggles faster than 256 nodes follow: completeness cannot hold."""

    model = "jagged"

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.sin(5e3 * super().logits(inputs))


def linear_path(
    *,
    length: int = 7,
    width: int = 3,
    terms: int = 2,
    seed: int = 0,
    kind: type[LinearPath] = LinearPath,
    unseen: Sequence[int] = (),
) -> LinearPath:
    """A path with random weights; `unseen` residues are not covered."""
    generator = torch.Generator().manual_seed(seed)
    covered = np.ones(length, bool)
    covered[list(unseen)] = False
    embedded = torch.randn(length, width, generator=generator)
    return kind(embedded, torch.randn(terms, length, width, generator=generator), covered)


class ChannelPath(LinearPath):
    """The same function without residues: what the stacker's path looks like."""

    embed = None  # type: ignore[assignment]


class PooledMeanPath(LinearPath):
    """F(e) = w . mean(states) + b with states = embeddings; one weight vector serves all residues."""

    model = "pooled"

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.head((inputs * torch.from_numpy(self.covered)[:, None]).mean(1))

    def states(self) -> torch.Tensor:
        return self.embedded

    def state_reference(self) -> torch.Tensor:
        return torch.zeros(self.embedded.shape[1])

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        return torch.tanh(pooled @ self.weights[:, 0].T) + 0.5
