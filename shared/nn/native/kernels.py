"""Call kernels.cpp on tensors, through ctypes.

shared.native builds it at the first use (seconds). Without a compiler, or on a processor without AVX-512 and its
bfloat16 instructions, callers take their torch path; nothing else changes.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from shared.native import library

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = (
    ["-O3", "-std=c++17", "-shared", "-fPIC", "-w", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16"]
)  # fmt: skip
WIDTHS = (16, 24, 32, 64, 128)  # of a head

_PRECISION = {torch.float32: 0, torch.bfloat16: 1}


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary tables, float32 [position, width / 2]."""

    cosine: Tensor
    sine: Tensor


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to the scores by key - query: float32 [heads, distances] in units of log 2, and where 0 stands.

    The table reaches 64 distances further to the right than any sequence does: keys come in blocks.
    """

    table: Tensor
    centre: int


class Kernels:
    """The library's functions on tensors; each runs on the calling thread and lets go of the interpreter.

    `name` identifies the code: results of another name may differ in the last bits.
    """

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        self.name = name
        pointer, integer, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
        self.supported: bool = bool(library.gowhy_supported())
        self._attention = library.gowhy_attention
        self._attention.argtypes = [
            ctypes.c_int, pointer, pointer, integer, integer, integer, number, pointer, pointer, pointer, integer, integer, pointer
        ]  # fmt: skip
        self._add_norm = library.gowhy_add_norm
        self._add_norm.argtypes = [
            pointer, pointer, pointer, pointer, number, ctypes.c_int, integer, integer, pointer
        ]  # fmt: skip
        self._add_norm.restype = None
        self._gelu = library.gowhy_gelu
        self._gelu.argtypes = [pointer, integer]
        self._gelu.restype = None

    def attention(
        self, qkv: Tensor, starts: Tensor, heads: int, *, scale: float, turn: Rotation | None, bias: Bias | None
    ) -> Tensor:
        """softmax(scale * q k' + bias) v within each sequence.

        Args:
            qkv: [T, 3 * heads * width] float32 or bfloat16, all queries, then all keys, then all values of a token.
            starts: [sequences + 1] int64; sequence i is the tokens `starts[i]:starts[i + 1]`.
            heads: number of heads.
            scale: of the scores, before the bias.
            turn: rotary tables, at least as long as the longest sequence.
            bias: by distance.

        Returns:
            [T, heads * width] in the type of `qkv`.

        Raises:
            ValueError: a width without kernel, or another type or layout.
        """
        width = qkv.shape[1] // (3 * heads)
        tables = [*((turn.cosine, turn.sine) if turn else ()), *((bias.table,) if bias else ())]
        if width not in WIDTHS or qkv.shape[1] != 3 * heads * width:
            raise ValueError(f"no attention kernel for {heads} heads in {qkv.shape[1]} columns")
        _check(qkv, *tables, starts)
        out = qkv.new_empty(qkv.shape[0], heads * width)
        failed = self._attention(
            _PRECISION[qkv.dtype],
            qkv.data_ptr(),
            starts.data_ptr(),
            len(starts) - 1,
            heads,
            width,
            scale,
            turn.cosine.data_ptr() if turn else None,
            turn.sine.data_ptr() if turn else None,
            bias.table.data_ptr() if bias else None,
            bias.table.shape[1] if bias else 0,
            bias.centre if bias else 0,
            out.data_ptr(),
        )
        if failed:
            raise MemoryError("no memory for attention's packed keys")
        return out

    def add_norm(
        self, x: Tensor, update: Tensor | None, gain: Tensor, shift: Tensor | None, *, epsilon: float, centred: bool
    ) -> Tensor:
        """Add `update` to the residual stream in place, and normalise a copy of it.

        Args:
            x: [T, D] float32, D a multiple of 16.
            update: [T, D] bfloat16.
            gain: [D] float32.
            shift: [D] float32.
            epsilon: added to the variance.
            centred: LayerNorm; else the root mean square without mean.

        Returns:
            [T, D] bfloat16.

        Raises:
            ValueError: another type or layout.
        """
        _check(*(tensor for tensor in (x, update, gain, shift) if tensor is not None))
        if x.shape[1] % 16 or x.dtype != torch.float32 or (update is not None and update.dtype != torch.bfloat16):
            raise ValueError(f"no normalisation kernel for {tuple(x.shape)} {x.dtype}")
        out = torch.empty(x.shape, dtype=torch.bfloat16)
        self._add_norm(
            x.data_ptr(),
            None if update is None else update.data_ptr(),
            gain.data_ptr(),
            None if shift is None else shift.data_ptr(),
            epsilon,
            int(centred),
            *x.shape,
            out.data_ptr(),
        )
        return out

    def gelu_(self, x: Tensor) -> Tensor:
        """The exact (erf) GELU of a bfloat16 tensor, in place.

        Raises:
            ValueError: another type or layout.
        """
        _check(x)
        if x.dtype != torch.bfloat16:
            raise ValueError(f"no GELU kernel for {x.dtype}")
        self._gelu(x.data_ptr(), x.numel())
        return x


def _check(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            raise ValueError(f"kernels take contiguous CPU tensors, not {tuple(tensor.shape)} on {tensor.device}")


@functools.cache
def kernels() -> tuple[Kernels | None, str]:
    """The kernels, or None and why there are none; asked once per process."""
    found, detail = library(SOURCE, FLAGS)
    if found is None:
        return None, detail
    ours = Kernels(found, f"avx512-{detail}")
    return (ours, "") if ours.supported else (None, "this processor has no AVX-512 with bfloat16")
