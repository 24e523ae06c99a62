"""The forward pass that makes embeddings: packed, without gradients, in float32 or bfloat16.

Both families are the same stack of blocks (norm, attention, norm, feed-forward, each added to a residual
stream) and differ in the norm, the positions and the activation, so one engine serves both. In bfloat16
the matrix products, the attention weights and the values are bfloat16; the residual stream, the norms,
the positions and every sum stay float32. On a CPU attention, the addition to the residual stream with the
norm after it, and the bfloat16 GELU are compiled code where that can be had (shared.nn.native), and products
are oneDNN's, in bfloat16 on packed weights; torch's operators otherwise, and on a GPU.

Shapes: T tokens of several sequences one after the other, D model dimension.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from shared.nn.encoders.packing import attend, positions, rotate, runs_of
from shared.nn.native.kernels import WIDTHS, Bias, Kernels, Rotation, kernels

LOG2E = 1.4426950408889634
# Small models spend so little that a build of seconds would be most of the run.
SMALLEST_COMPILED = 256
# How far a block of keys may reach beyond the last one.
BLOCK_MARGIN = 64


@dataclass(frozen=True, slots=True)
class Affine:
    """A linear map, or a norm's gain and shift."""

    weight: Tensor
    bias: Tensor | None

    def to(self, dtype: torch.dtype) -> Affine:
        """The same in another precision."""
        return Affine(self.weight.to(dtype).contiguous(), None if self.bias is None else self.bias.to(dtype))


@dataclass(frozen=True, slots=True)
class Block:
    """One layer; `qkv` gives all queries, then all keys, then all values of a token."""

    attention_norm: Affine
    qkv: Affine
    out: Affine
    feed_forward_norm: Affine
    up: Affine
    down: Affine


@dataclass(frozen=True, slots=True)
class Stack:
    """What an engine has to know of a network.

    `rotation` gives cosine and sine [n, 1, width / 2] of the positions 0 ... n - 1, `bias` the score's
    addition [heads, n] of distances key - query [n]; a family has one of the two.
    """

    blocks: tuple[Block, ...]
    last_norm: Affine
    heads: int
    scale: float  # of the scores
    epsilon: float
    centred: bool  # LayerNorm; else the root mean square without mean
    activation: Literal["gelu", "relu"]
    rotation: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    bias: Callable[[Tensor], Tensor] | None = None


class Engine:
    """Weights of one precision, ready to run.

    Args:
        stack: the network.
        dtype: float32 or bfloat16.
        longest: tokens of the longest sequence that will come.
        compiled: `auto` takes the compiled code where there is any, for models of 256 dimensions or more.
    """

    def __init__(
        self, stack: Stack, dtype: torch.dtype, longest: int, compiled: Literal["auto", "never", "always"] = "auto"
    ) -> None:
        self.dtype, self.longest = dtype, longest
        self.dim = stack.last_norm.weight.shape[0]
        device = stack.last_norm.weight.device
        narrow = [
            replace(block, qkv=block.qkv.to(dtype), out=block.out.to(dtype), up=block.up.to(dtype), down=block.down.to(dtype))
            for block in stack.blocks
        ]  # fmt: skip
        self.stack = replace(stack, blocks=tuple(narrow))
        self.native = self._kernels(device, compiled)
        onednn = device.type == "cpu" and _has_onednn(dtype)
        if onednn and dtype == torch.bfloat16:
            # torch's own product brings the weights into oneDNN's order at each call, a tenth of its time. In float32
            # they stay as they are, because they are the network's own, and would be there twice.
            self.stack = replace(self.stack, blocks=tuple(map(_packed, narrow)))
        self._linear = _onednn_linear if onednn else _torch_linear
        self.name = (self.native.name if self.native else "torch") + ("+onednn" if onednn else "")
        self._turn = self._bias = None
        if stack.rotation is not None:
            cosine, sine = stack.rotation(torch.arange(longest, device=device))
            self._turn = Rotation(cosine.flatten(1).contiguous(), sine.flatten(1).contiguous())
        if stack.bias is not None:
            distances = torch.arange(-longest, longest + BLOCK_MARGIN)
            self._bias = Bias((stack.bias(distances).float() * LOG2E).contiguous(), longest)

    def _kernels(self, device: torch.device, compiled: Literal["auto", "never", "always"]) -> Kernels | None:
        width = self.stack.blocks[0].qkv.weight.shape[0] // (3 * self.stack.heads)
        small = compiled == "auto" and self.dim < SMALLEST_COMPILED
        if device.type != "cpu" or compiled == "never" or small or width not in WIDTHS or self.dim % 16:
            return None
        return kernels()[0]

    @torch.no_grad()
    def states(self, embedded: Tensor, lengths: Sequence[int]) -> Tensor:
        """Last hidden states [T, D] float32 of embeddings [T, D] as the first block takes them.

        Args:
            embedded: one sequence after the other.
            lengths: of the sequences, in tokens.
        """
        stack = self.stack
        x = embedded.float().clone(memory_format=torch.contiguous_format)
        attention = self._attention(lengths, x.device)
        update: Tensor | None = None
        for block in stack.blocks:
            u = self._add_norm(x, update, block.attention_norm)
            update = self._linear(attention(self._linear(u, block.qkv)), block.out)
            u = self._add_norm(x, update, block.feed_forward_norm)
            update = self._linear(self._activate(self._linear(u, block.up)), block.down)
        if update is not None:
            x += update
        return self._norm(x, stack.last_norm)

    def _attention(self, lengths: Sequence[int], device: torch.device) -> Callable[[Tensor], Tensor]:
        """Attention of packed queries, keys and values [T, 3 * heads * width] for sequences of these lengths."""
        stack, native, turn, bias = self.stack, self.native, self._turn, self._bias
        if native is not None:
            starts = torch.tensor([0, *lengths]).cumsum(0)
            return lambda qkv: native.attention(qkv, starts, stack.heads, scale=stack.scale, turn=turn, bias=bias)
        runs = runs_of(lengths)
        at = positions(runs, device)
        masks: dict[int, Tensor] = {}

        def mask(length: int) -> Tensor:
            if bias is not None and length not in masks:
                # Heads first in memory: attention would copy any other layout, in every layer.
                by_distance = bias.table[:, bias.centre + 1 - length : bias.centre + length] / LOG2E
                masks[length] = by_distance.to(self.dtype).contiguous().unfold(-1, length, 1).flip(1)[None]
            return masks[length]

        def attention(qkv: Tensor) -> Tensor:
            query, key, value = qkv.unflatten(-1, (3, stack.heads, -1)).unbind(1)
            if turn is not None:
                angles = turn.cosine[at][:, None], turn.sine[at][:, None]
                query, key = (rotate(part.float(), *angles).to(self.dtype) for part in (query, key))
            return attend(query, key, value, runs, bias=mask if bias is not None else None, scale=stack.scale)

        return attention

    def _add_norm(self, x: Tensor, update: Tensor | None, norm: Affine) -> Tensor:
        """Add to the residual stream [T, D] in place; its norm [T, D] in the engine's precision."""
        if self.native is not None and self.dtype == torch.bfloat16:
            stack = self.stack
            return self.native.add_norm(x, update, norm.weight, norm.bias, epsilon=stack.epsilon, centred=stack.centred)
        if update is not None:
            x += update
        return self._norm(x, norm).to(self.dtype)

    def _norm(self, x: Tensor, norm: Affine) -> Tensor:
        if self.stack.centred:
            return functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, self.stack.epsilon)
        return torch.rms_norm(x, x.shape[-1:], norm.weight, self.stack.epsilon)

    def _activate(self, x: Tensor) -> Tensor:
        if self.stack.activation == "relu":
            return x.relu_()
        if self.native is not None and self.dtype == torch.bfloat16:
            return self.native.gelu_(x)
        return functional.gelu(x)


def _has_onednn(dtype: torch.dtype) -> bool:
    """Is oneDNN's product the faster one here? torch multiplies float32 through MKL, at half the width of AVX-512 on some."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _packed(block: Block) -> Block:
    """The block with the weights of its products in oneDNN's order, which only `_onednn_linear` can read."""

    def packed(affine: Affine) -> Affine:
        return replace(affine, weight=torch.ops.mkldnn._reorder_linear_weight(affine.weight))

    return replace(block, qkv=packed(block.qkv), out=packed(block.out), up=packed(block.up), down=packed(block.down))


def _torch_linear(x: Tensor, affine: Affine) -> Tensor:
    return functional.linear(x, affine.weight, affine.bias)


def _onednn_linear(x: Tensor, affine: Affine) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, affine.weight, affine.bias, "none", [], "")
    return out
