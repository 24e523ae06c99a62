"""What an encoder owes to those who use it, and what a model family owes to the encoder.

Shapes: n sequences, B batch, L residues, T tokens (residues and special ones), D model dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from shared.nn.encoders.engine import Stack
from shared.nn.encoders.packing import Run

STANDARD_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"

# Part of every cache key and record. 1: mean over residues, special tokens left out, windows by owned residues.
POOLING_VERSION = 1


@runtime_checkable
class Encoder(Protocol):
    """Sequence -> vectors. Parameters are frozen; gradients flow to the residue embeddings.

    `weights_label` says where the weights are from, `random-init(SEED)` included; it is shown
    wherever a result is. `order_free` promises that a sequence's vector is the same to the last bit
    whatever else is in the call; without it, it differs by less than 1e-5. `engine` names the code that
    computes vectors: another one, or another processor, may differ in the last bits.

    With `dtype` bfloat16 only `embed` and `residues` are computed in it: what has gradients stays float32.
    """

    name: str
    dim: int
    weights_label: str
    weights_sha256: str
    window: int  # residues per forward pass
    overlap: int  # residues that neighbouring windows share
    device: torch.device
    order_free: bool
    dtype: str  # float32 or bfloat16

    @property
    def engine(self) -> str:
        """Name of the code that computes vectors."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON record that `load_encoder` takes back."""
        ...

    def embed(self, sequences: Sequence[str]) -> npt.NDArray[np.float32]:
        """Pooled vectors [n, dim]: the mean of the last hidden states over residues."""
        ...

    def residues(self, sequence: str) -> Tensor:
        """Last hidden states [L, dim]; their mean is the pooled vector."""
        ...

    def tokenise(self, sequence: str) -> Tensor:
        """Token ids [L] int64 of the residues, without special tokens."""
        ...

    def embed_tokens(self, sequence: str) -> Tensor:
        """Input embeddings [L, D] of the residues, as `forward_embedded` takes them."""
        ...

    def forward_embedded(self, embedded: Tensor) -> Tensor:
        """Pooled vectors [B, dim] from residue embeddings [B, L, D]; differentiable.

        Special tokens are added inside and held fixed. Of `embed_tokens(s)[None]` it gives `embed([s])`.
        """
        ...

    def mean_residue(self) -> Tensor:
        """Mean input embedding [D] of the 20 amino acids: a baseline away from the zero vector."""
        ...

    def mask_residue(self) -> Tensor:
        """Input embedding [D] of a masked residue."""
        ...

    def masked(self, sequence: str, positions: Sequence[int]) -> Tensor:
        """Pooled vector [dim] with mask tokens at 0-based `positions`, as the model was trained to read them."""
        ...


@dataclass(frozen=True, slots=True)
class Alphabet:
    """Letters -> token ids, and the special tokens around a sequence."""

    ids: npt.NDArray[np.int64]  # [256], by ASCII code
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, letters: dict[str, int], other: int, before: tuple[int, ...], after: tuple[int, ...]) -> Alphabet:
        """An alphabet in which every letter not in `letters` is the token `other`."""
        ids = np.full(256, other, np.int64)
        for letter, token in letters.items():
            ids[ord(letter)] = token
        return cls(ids, before, after)

    def encode(self, sequence: str) -> npt.NDArray[np.int64]:
        """Token ids [L] of the residues."""
        codes: npt.NDArray[np.int64] = self.ids[np.frombuffer(sequence.encode("ascii", "replace"), np.uint8)]
        return codes


class Shape(Protocol):
    """Hyperparameters of one architecture."""

    @property
    def dim(self) -> int:
        """Dimension of a hidden state."""
        ...

    def describe(self) -> str:
        """One line for records and reports."""
        ...


class Network(Protocol):
    """One model family around a transformers module: what differs between ESM-2 and T5."""

    alphabet: Alphabet
    module: nn.Module

    @property
    def shape(self) -> Shape:
        """Its hyperparameters."""
        ...

    def table(self) -> Tensor:
        """Input embeddings of all tokens [vocabulary, D]."""
        ...

    def mask_row(self) -> Tensor:
        """What stands in the place of a masked residue, [D]."""
        ...

    def rescale(self, embedded: Tensor, masked: int, tokens: int) -> Tensor:
        """What the model does to embeddings [..., D] of a sequence of `tokens` with `masked` mask tokens."""
        ...

    def hidden(self, embedded: Tensor, runs: Sequence[Run]) -> Tensor:
        """Last hidden states [T, D] of packed, rescaled embeddings [T, D]; differentiable, in the weights' precision."""
        ...

    def stack(self) -> Stack:
        """The same function for the engine, which has no gradients."""
        ...

    def initial_std(self, parameter: str) -> float | None:
        """Standard deviation of a random parameter; None: the layer's own start value (gain 1, bias 0)."""
        ...

    def parameter_name(self, key: str) -> str | None:
        """The module's parameter that a checkpoint's tensor fills; None: one the encoder has no use for."""
        ...

    def check_config(self, config: dict[str, Any]) -> str | None:
        """What in a checkpoint's config.json contradicts the shape, or None."""
        ...
