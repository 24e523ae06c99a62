"""What reads a protein's residues: sequence models by fold, encoders, and a memory of what they said of masked ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from shared.nn.encoders import Encoder


@runtime_checkable
class SequenceModel(Protocol):
    """A level-1 model that reads the residues themselves."""

    terms: tuple[str, ...]

    def embed_tokens(self, sequence: str) -> Tensor:
        """Residue embeddings [L, D]."""
        ...

    def forward_embedded(self, embedded: Tensor) -> Tensor:
        """Residue embeddings [B, L, D] -> logits [B, term]; differentiable."""
        ...

    def mean_residue(self) -> Tensor:
        """Mean embedding [D] of the twenty amino acids."""
        ...

    def masked_logits(self, sequence: str, positions: Sequence[int]) -> Tensor:
        """Logits [term] with mask tokens at the 0-based positions."""
        ...


@runtime_checkable
class GroupedSequenceModel(SequenceModel, Protocol):
    """A sequence model that masks many groups of residues in one call."""

    def masked_group_logits(self, sequence: str, groups: Sequence[Sequence[int]]) -> Tensor:
        """Logits [groups, term]; each row is `masked_logits` of one group."""
        ...


class MaskedCache:
    """What models said of one protein with masked residues, by reader and group: paths of one protein share it."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[frozenset[int], Tensor]] = {}

    def get(self, reader: str, groups: Sequence[Sequence[int]], compute: Callable[[list[list[int]]], Tensor]) -> Tensor:
        """One row per group; `compute` is asked for those that are not known, in order of appearance."""
        known = self._rows.setdefault(reader, {})
        keys = [frozenset(group) for group in groups]
        missing = [key for key in dict.fromkeys(keys) if key not in known]
        if missing:
            rows = compute([sorted(key) for key in missing])
            known.update(zip(missing, rows.cpu(), strict=True))
        return torch.stack([known[key] for key in keys])


def embed_members(members: Sequence[SequenceModel], sequence: str) -> Tensor:
    """Every member's residue embeddings side by side, [1, L, sum of widths]."""
    return torch.cat([member.embed_tokens(sequence).detach() for member in members], dim=-1)[None]


def mean_members(members: Sequence[SequenceModel], length: int) -> Tensor:
    """Every member's mean amino acid at every residue, [1, length, sum of widths]."""
    means = torch.cat([member.mean_residue().detach() for member in members])
    return means.expand(1, length, -1).clone()


def member_logits(members: Sequence[SequenceModel], inputs: Tensor) -> Iterator[Tensor]:
    """Each member's logits [B, term] of its part of the inputs [B, L, sum of widths]."""
    widths = [member.mean_residue().shape[0] for member in members]
    for member, own in zip(members, torch.split(inputs, widths, dim=-1), strict=True):
        yield member.forward_embedded(own)


def masked_members(
    name: str, members: Sequence[SequenceModel], sequence: str, groups: Sequence[Sequence[int]], cache: MaskedCache
) -> Tensor:
    """Logits [groups, member, term] with the residues of each group masked."""

    def compute(missing: list[list[int]]) -> Tensor:
        return torch.stack([_masked_of(member, sequence, missing) for member in members], dim=1)

    return cache.get(name, groups, compute)


def masked_vectors(
    modality: str, encoder: Encoder, sequence: str, groups: Sequence[Sequence[int]], cache: MaskedCache
) -> Tensor:
    """Pooled vectors [groups, D] with the residues of each group masked."""
    return cache.get(
        modality, groups, lambda missing: torch.stack([encoder.masked(sequence, group) for group in missing])
    )


@torch.inference_mode()
def _masked_of(member: SequenceModel, sequence: str, groups: list[list[int]]) -> Tensor:
    if isinstance(member, GroupedSequenceModel):
        return member.masked_group_logits(sequence, groups)
    return torch.stack([member.masked_logits(sequence, group) for group in groups])
