"""The residue-level CNN: filters over one-hot residues, pooled over the sequence, a head per term group.

A wide first layer with maximum pooling is a set of motif detectors (Alipanahi et al. 2015, DeepBind,
doi:10.1038/nbt.3300); it cannot tell one family's background from another's, and so must find what
the members of a term share.

Shapes: B proteins, L residues, D = 20 embedding dimensions, C channels, T terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import DataError
from shared.models.base import LOGIT_LIMIT
from shared.models.features import Features, FloatArray, IntArray
from shared.nn.heads import HeadRegistry
from shared.nn.pooling import pool

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
UNKNOWN, MASK = len(RESIDUES), len(RESIDUES) + 1
MASKED_RESIDUES = 16_384  # of a batch of masked stretches

_CODES = np.full(256, UNKNOWN, np.int64)
_CODES[np.frombuffer(RESIDUES.encode(), np.uint8)] = np.arange(len(RESIDUES))


def tokens_of(sequence: str) -> IntArray:
    """Token ids [L]: the twenty amino acids, and one for every other letter."""
    codes: IntArray = _CODES[np.frombuffer(sequence.encode("ascii"), np.uint8)]
    return codes


def residue_table() -> Tensor:
    """Embeddings [tokens, D]: one-hot; unknown and masked residues are the mean of the twenty."""
    table = torch.full((MASK + 1, len(RESIDUES)), 1.0 / len(RESIDUES))
    table[: len(RESIDUES)] = torch.eye(len(RESIDUES))
    return table


def filter_widths(channels: int, kernel: int) -> dict[int, int]:
    """Residues that a filter spans -> number of filters: half of them `kernel`, the others about a half and a quarter of it.

    A narrow filter finds a compact motif among fewer chance matches, a wide one holds a gapped motif.
    """
    shares = {kernel: channels - 2 * (channels // 4)}
    for width in (kernel // 2 | 1, kernel // 4 | 1):
        shares[width] = shares.get(width, 0) + channels // 4
    return {width: count for width, count in shares.items() if count}


class CnnNetwork(nn.Module):
    """One-hot residues -> convolutions -> maximum and mean over the sequence -> heads."""

    table: Tensor

    def __init__(self, groups: Sequence[str], channels: int, kernel: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.groups, self.channels, self.kernel, self.layers = tuple(groups), channels, kernel, layers
        self.register_buffer("table", residue_table(), persistent=False)
        self.filters = nn.ModuleList(
            nn.Conv1d(len(RESIDUES), count, width, padding="same")
            for width, count in filter_widths(channels, kernel).items()
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(layers - 1))
        self.blocks = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding="same") for _ in range(layers - 1))
        self.dropout = nn.Dropout(dropout)
        self.heads = HeadRegistry(2 * channels, groups)
        with torch.no_grad():
            for head in self.heads.values():
                if isinstance(head, nn.Linear):
                    head.weight.mul_(0.1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids [B, L] -> residue embeddings [B, L, D]."""
        return self.table[tokens]

    def filter_weights(self) -> list[Tensor]:
        """Weights of the first layer, [filters, D, width] for each width; widest first."""
        return [bank.weight for bank in self.filters if isinstance(bank, nn.Conv1d)]

    @property
    def reach(self) -> int:
        """Residues to either side that a position's state depends on."""
        return self.layers * (self.kernel // 2)

    def states(self, embedded: Tensor, present: Tensor) -> Tensor:
        """Residue embeddings [B, L, D] and which positions exist, bool [B, L] -> position states [B, C, L], 0 where absent."""
        kept = present[:, None].to(embedded.dtype)  # [B, 1, L]
        residues = (embedded * present[..., None]).transpose(1, 2)
        state = functional.gelu(torch.cat([bank(residues) for bank in self.filters], dim=1)) * kept
        for norm, block in zip(self.norms, self.blocks, strict=True):
            normed = norm(state.transpose(1, 2)).transpose(1, 2) * kept
            state = (state + functional.gelu(block(normed))) * kept
        return state

    def score(self, highest: Tensor, mean: Tensor) -> Tensor:
        """Maximum and mean of the states over the sequence, each [B, C] -> logits [B, T]."""
        logits: Tensor = self.heads(self.dropout(torch.cat([highest, mean], dim=1)))
        return logits

    def forward(self, embedded: Tensor, present: Tensor) -> Tensor:
        """Residue embeddings [B, L, D] and which positions exist, bool [B, L] -> logits [B, T]."""
        return self.score(*pool(self.states(embedded, present), present))


class _Unmasked:
    """A sequence's states, ready to be changed in a stretch: what lies outside the stretch is not computed again."""

    def __init__(self, network: CnnNetwork, tokens: Tensor) -> None:
        self.network, self.tokens = network, tokens
        everywhere = torch.ones(1, len(tokens), dtype=torch.bool, device=tokens.device)
        state = network.states(network.embed(tokens[None]), everywhere)[0]  # [C, L]
        nothing = state.new_full((len(state), 1), -torch.inf)
        self.before = torch.cat([nothing, state.cummax(dim=1).values], dim=1)  # [C, L + 1], of positions < i
        self.after = torch.cat([state.flip(1).cummax(dim=1).values.flip(1), nothing], dim=1)  # of positions >= i
        zero = state.new_zeros((len(state), 1), dtype=torch.float64)
        self.sums = torch.cat([zero, state.double().cumsum(dim=1)], dim=1)  # [C, L + 1]

    def masked(self, groups: Sequence[Sequence[int]]) -> Tensor:
        """Logits [groups, T], each with the mask token at one group's positions; no group is empty."""
        reach, length, device = self.network.reach, len(self.tokens), self.tokens.device
        first = torch.tensor([min(group) for group in groups], device=device)
        last = torch.tensor([max(group) for group in groups], device=device)
        width = int((last - first).max()) + 1 + 4 * reach
        places = (first - 2 * reach)[:, None] + torch.arange(width, device=device)  # [G, width]
        present = (places >= 0) & (places < length)
        tokens = self.tokens[places.clamp(0, length - 1)]
        row = torch.tensor([index for index, group in enumerate(groups) for _ in group], device=device)
        position = torch.tensor([place for group in groups for place in group], device=device)
        tokens[row, position - (first - 2 * reach)[row]] = MASK
        state = self.network.states(self.network.embed(tokens), present)  # [G, C, width]
        start, stop = (first - reach).clamp(0), (last + 1 + reach).clamp(max=length)
        changed = ((places >= start[:, None]) & (places < stop[:, None]))[:, None]  # [G, 1, width]
        outside = torch.maximum(self.before[:, start], self.after[:, stop]).T
        highest = torch.maximum(state.masked_fill(~changed, -torch.inf).amax(dim=2), outside)
        kept = (self.sums[:, -1:] - self.sums[:, stop] + self.sums[:, start]).T
        total = kept + torch.where(changed, state, 0.0).double().sum(dim=2)
        return self.network.score(highest, (total / length).to(highest.dtype))


class CnnModel:
    """A fitted CNN, with the residue path that explanations take."""

    kind: ClassVar[str] = "cnn"
    is_torch: ClassVar[bool] = True

    def __init__(self, network: CnnNetwork, terms: tuple[str, ...]) -> None:
        self.network, self.terms = network.eval().requires_grad_(False), terms

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.table.device

    def logits(self, features: Features, rows: IntArray) -> FloatArray:
        """Logits [len(rows), T], limited as stored ones are; sequences of any length."""
        scores = np.empty((len(rows), len(self.terms)), np.float32)
        with torch.inference_mode():
            # One by one: convolutions round by the shape of a batch, and a protein's score must not depend on others.
            for place, row in enumerate(rows):
                logits = self.forward_embedded(self.embed_tokens(features.sequences[row])[None])[0]
                scores[place] = logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT).cpu().numpy()
        return scores

    def embed_tokens(self, sequence: str) -> Tensor:
        """Residue embeddings [L, D]."""
        embedded: Tensor = self.network.embed(torch.from_numpy(tokens_of(sequence)).to(self.device))
        return embedded

    def forward_embedded(self, embedded: Tensor) -> Tensor:
        """Residue embeddings [B, L, D] -> logits [B, T]; differentiable. Of `embed_tokens(s)[None]` the logits of s."""
        present = torch.ones(embedded.shape[:2], dtype=torch.bool, device=embedded.device)
        logits: Tensor = self.network(embedded, present)
        return logits

    def mean_residue(self) -> Tensor:
        """Mean embedding [D] of the twenty amino acids."""
        return self.network.table[: len(RESIDUES)].mean(0)

    def masked_logits(self, sequence: str, positions: Sequence[int]) -> Tensor:
        """Logits [T] with mask tokens at the 0-based positions, as training showed them."""
        tokens = torch.from_numpy(tokens_of(sequence)).to(self.device)
        tokens[list(positions)] = MASK
        with torch.inference_mode():
            return self.forward_embedded(self.network.embed(tokens)[None])[0]

    def masked_group_logits(self, sequence: str, groups: Sequence[Sequence[int]]) -> Tensor:
        """Logits [groups, T]; each row is `masked_logits` of one group.

        Only what a mask can reach is computed anew, so that occluding every residue costs little more
        for a long sequence than its length; memory is bounded by `MASKED_RESIDUES`.
        """
        with torch.inference_mode():
            unmasked = _Unmasked(self.network, torch.from_numpy(tokens_of(sequence)).to(self.device))
            whole = self.forward_embedded(self.embed_tokens(sequence)[None])
            logits = whole.repeat(len(groups), 1)
            # Groups of like extent share a batch, because the widest decides its width.
            extents = {place: max(group) - min(group) + 1 for place, group in enumerate(groups) if group}
            order = sorted(extents, key=extents.__getitem__)
            while order:
                width = extents[order[0]] + 4 * self.network.reach
                batch = [place for place in order[: max(1, MASKED_RESIDUES // width)] if extents[place] <= 2 * width]
                order = order[len(batch) :]
                logits[batch] = unmasked.masked([groups[place] for place in batch])
            return logits

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every parameter by name."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.network.state_dict().items()}

    def architecture(self) -> dict[str, Any]:
        """Terms, their groups and the sizes."""
        network = self.network
        return {
            "terms": list(self.terms),
            "groups": list(network.groups),
            "channels": network.channels,
            "kernel": network.kernel,
            "layers": network.layers,
        }

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from plain values."""
        sizes = {name: int(architecture[name]) for name in ("channels", "kernel", "layers")}
        network = CnnNetwork(architecture["groups"], **sizes)
        network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
        return cls(network, tuple(architecture["terms"]))


def pad(tokens: Sequence[IntArray]) -> tuple[Tensor, Tensor]:
    """Token ids [B, L] and which positions exist, bool [B, L], of sequences of different length.

    Raises:
        DataError: a sequence is empty.
    """
    longest = max(len(sequence) for sequence in tokens)
    padded = np.full((len(tokens), longest), UNKNOWN, np.int64)
    present = np.zeros((len(tokens), longest), np.bool_)
    for row, sequence in enumerate(tokens):
        if not len(sequence):
            raise DataError("an empty sequence", where="the sequence CNN")
        padded[row, : len(sequence)] = sequence
        present[row, : len(sequence)] = True
    return torch.from_numpy(padded), torch.from_numpy(present)
