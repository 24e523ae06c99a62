"""Maximum and mean of the states that exist: one pass on the processor, torch's operators elsewhere.

Torch needs a pass over all states for each of a dozen small operators, and wakes its threads for each.

Shapes: B proteins, C channels, L positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.compiled import compiled

LANES = 16  # independent maxima and sums: a vector of float32

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


def pool(state: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """States [B, C, L], 0 where absent, and which positions exist, bool [B, L] -> maximum and mean, each [B, C].

    Positions that tie for the maximum share its gradient. Each protein has a position.
    """
    if state.device.type == "cpu" and state.dtype == torch.float32:
        highest, mean = _Pool.apply(state, present)
        return highest, mean
    highest = state.masked_fill(~present[:, None], -torch.inf).amax(dim=2)
    return highest, state.sum(dim=2) / present.sum(dim=1, keepdim=True)


class _Pool(torch.autograd.Function):
    """`pool` and its gradient in compiled code."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        state = state.contiguous()
        highest, mean = state.new_empty(state.shape[:2]), state.new_empty(state.shape[:2])
        _forward(state.detach().numpy(), present.numpy(), highest.numpy(), mean.numpy())
        ctx.save_for_backward(state, present, highest)
        return highest, mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        state, present, highest = ctx.saved_tensors
        given = torch.empty_like(state)
        of_highest, of_mean = (gradient.contiguous().numpy() for gradient in gradients)
        _backward(state.detach().numpy(), present.numpy(), highest.numpy(), (of_highest, of_mean), given.numpy())
        return given, None


@compiled
def _forward(state: Floats, present: Flags, highest: Floats, mean: Floats) -> None:
    proteins, channels, length = state.shape
    whole = length // LANES * LANES
    top, total = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    lowered = np.empty(length, np.float32)  # added, it takes a position out of the maximum
    for protein in range(proteins):
        count = 0
        for place in range(length):
            count += present[protein, place]
            lowered[place] = 0 if present[protein, place] else -np.inf
        for channel in range(channels):
            row = state[protein, channel]
            top[:], total[:] = -np.inf, 0
            for start in range(0, whole, LANES):
                for lane in range(LANES):
                    value = row[start + lane]
                    total[lane] += value
                    value += lowered[start + lane]
                    top[lane] = max(top[lane], value)
            for place in range(whole, length):
                total[0] += row[place]
                top[0] = max(top[0], row[place] + lowered[place])
            for lane in range(1, LANES):
                total[0] += total[lane]
                top[0] = max(top[0], top[lane])
            highest[protein, channel] = top[0]
            mean[protein, channel] = total[0] / count


@compiled
def _backward(state: Floats, present: Flags, highest: Floats, gradients: tuple[Floats, Floats], given: Floats) -> None:
    proteins, channels, length = state.shape
    of_highest, of_mean = gradients
    for protein in range(proteins):
        count = 0
        for place in range(length):
            count += present[protein, place]
        for channel in range(channels):
            row, most = state[protein, channel], highest[protein, channel]
            ties = 0
            for place in range(length):
                ties += row[place] == most and present[protein, place]
            share = of_highest[protein, channel] / np.float32(max(ties, 1))
            each = of_mean[protein, channel] / np.float32(count)
            for place in range(length):
                value = each + (share if row[place] == most else np.float32(0))
                given[protein, channel, place] = value if present[protein, place] else np.float32(0)
