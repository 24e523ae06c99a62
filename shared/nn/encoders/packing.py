"""Several sequences in one matrix [tokens, dimension], one after the other and without padding.

Every operator but attention works on single tokens, so only attention has to know where a sequence
begins. Shapes: T tokens, H heads, W width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Run:
    """`count` neighbouring sequences of `length` tokens each: one call of the attention operator."""

    count: int
    length: int


def runs_of(lengths: Iterable[int]) -> list[Run]:
    """Group neighbours of equal length."""
    return [Run(len(list(group)), length) for length, group in groupby(lengths)]


def positions(runs: Sequence[Run], device: torch.device) -> Tensor:
    """Each token's index inside its own sequence, [T] int64."""
    return torch.cat([torch.arange(run.length, device=device).repeat(run.count) for run in runs])


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    runs: Sequence[Run],
    *,
    bias: Callable[[int], Tensor] | None = None,
    scale: float = 1.0,
) -> Tensor:
    """Attention of every token to the tokens of its own sequence.

    Args:
        query: [T, H, W].
        key: [T, H, W].
        value: [T, H, W].
        runs: how the T tokens are made up.
        bias: sequence length n -> [1, H, n, n], added to the scores.
        scale: of the scores, before the bias.

    Returns:
        [T, H * W].
    """
    pieces: list[Tensor] = []
    begin = 0
    for run in runs:
        end = begin + run.count * run.length
        q, k, v = (
            part[begin:end].unflatten(0, (run.count, run.length)).transpose(1, 2) for part in (query, key, value)
        )
        mask = None if bias is None else bias(run.length)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        pieces.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))
        begin = end
    return torch.cat(pieces)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + width / 2) of every head, [T, heads, width]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
