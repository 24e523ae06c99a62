"""The compiled kernels against torch in double precision, and how they are built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from shared.nn.encoders.esm2 import rotation
from shared.nn.encoders.packing import rotate
from shared.nn.native.kernels import WIDTHS, Bias, Kernels, Rotation, kernels

REPOSITORY = Path(__file__).resolve().parents[4]
LOG2E = 1.4426950408889634


@pytest.fixture(scope="module")
def native() -> Kernels:
    found, reason = kernels()
    if found is None:
        pytest.skip(reason)
    return found


def exact(qkv: torch.Tensor, lengths: list[int], heads: int, scale: float, *, turn: bool, bias: torch.Tensor | None):
    """Attention in float64; `bias` [heads, 2 * longest + 1] by distance, 0 in the middle."""
    width = qkv.shape[1] // (3 * heads)
    pieces = []
    for part in qkv.double().split(lengths):
        query, key, value = part.unflatten(-1, (3, heads, width)).unbind(1)
        index = torch.arange(len(part))
        if turn:
            angles = rotation(index, width, torch.float64)
            query, key = rotate(query, *angles), rotate(key, *angles)
        mask = None
        if bias is not None:
            mask = bias.double()[:, index[None, :] - index[:, None] + bias.shape[1] // 2]
        seen = functional.scaled_dot_product_attention(
            query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1), attn_mask=mask, scale=scale
        )
        pieces.append(seen.transpose(0, 1).flatten(1))
    return torch.cat(pieces)


@pytest.mark.parametrize("spread", [0.7, 8.0], ids=["mild", "sharp"])
@pytest.mark.parametrize("place", ["turned", "biased", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_attention_is_attention(native, width: int, dtype: torch.dtype, place: str, spread: float) -> None:
    """`sharp` scores reach hundreds: the shift of the exponents has to follow them from block to block."""
    lengths, heads, scale = [1, 31, 300, 32, 33, 9, 512], 3, width**-0.5
    generator = torch.Generator().manual_seed(width)
    qkv = (torch.randn(sum(lengths), 3 * heads * width, generator=generator) * spread).to(dtype)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    turn = table = bias = None
    if place == "turned":
        cosine, sine = rotation(torch.arange(max(lengths)), width, torch.float32)
        turn = Rotation(cosine.flatten(1).contiguous(), sine.flatten(1).contiguous())
    if place == "biased":
        table = torch.randn(heads, 2 * 512 + 1, generator=generator) * spread
        bias = Bias((functional.pad(table, (0, 64)) * LOG2E).contiguous(), 512)
    found = native.attention(qkv, starts, heads, scale=scale, turn=turn, bias=bias)
    wanted = exact(qkv, lengths, heads, scale, turn=turn is not None, bias=table)
    assert found.dtype == dtype
    error = float((found.double() - wanted).norm() / wanted.norm())
    # Of scores near 500 float32 keeps 3e-5 and bfloat16 queries about 1.
    limits = {
        (torch.float32, 0.7): 2e-6,
        (torch.float32, 8.0): 2e-5,
        (torch.bfloat16, 0.7): 6e-3,
        (torch.bfloat16, 8.0): 0.08,
    }
    assert error <= limits[dtype, spread], error
    alone = [
        native.attention(part.contiguous(), torch.tensor([0, len(part)]), heads, scale=scale, turn=turn, bias=bias)
        for part in qkv.split(lengths)
    ]
    assert torch.equal(torch.cat(alone), found), "neighbours change nothing"


def test_scores_that_rise_without_end_keep_their_weights(native) -> None:
    """Every later key outweighs all before it by 2^100: the last one gets all the weight, without overflow."""
    n, width = 600, 16
    qkv = torch.zeros(n, 3 * width)
    qkv[:, 0] = 1
    qkv[:, width] = torch.arange(n) * 70.0
    qkv[:, 2 * width] = torch.arange(n)
    found = native.attention(qkv, torch.tensor([0, n]), 1, scale=1.0, turn=None, bias=None)
    assert torch.equal(found[:, 0], torch.full((n,), n - 1.0))
    found = native.attention(qkv.flip(0).contiguous(), torch.tensor([0, n]), 1, scale=1.0, turn=None, bias=None)
    assert torch.equal(found[:, 0], torch.full((n,), n - 1.0))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("update", [True, False])
def test_add_norm_is_the_residual_and_its_norm(native, centred: bool, update: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(37, 320, generator=generator) * 3 + 5
    added = torch.randn(37, 320, generator=generator).bfloat16() if update else None
    gain, shift = torch.randn(2, 320, generator=generator)
    wanted = x.double() + (added.double() if update else 0)
    normed = wanted - wanted.mean(-1, keepdim=True) * centred
    normed = normed * (normed.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * gain + shift
    found = native.add_norm(x, added, gain, shift.contiguous(), epsilon=1e-5, centred=centred)
    assert torch.allclose(x.double(), wanted, atol=1e-6)
    assert torch.allclose(found.double(), normed, rtol=2**-8, atol=1e-5)


def test_gelu_is_the_exact_one_for_every_bfloat16(native) -> None:
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every = every[every.isfinite()].contiguous()
    wanted = functional.gelu(every.double())
    found = native.gelu_(every.clone())
    assert torch.allclose(found.double(), wanted, rtol=2**-7, atol=1e-6)
    odd = torch.linspace(-3, 3, 19).bfloat16()
    assert torch.equal(native.gelu_(odd.clone()), native.gelu_(torch.cat([odd, odd]))[:19])


def test_what_has_no_kernel_is_refused(native) -> None:
    starts = torch.tensor([0, 4])
    with pytest.raises(ValueError, match="no attention kernel"):
        native.attention(torch.zeros(4, 3 * 20), starts, 1, scale=1.0, turn=None, bias=None)
    with pytest.raises(ValueError, match="contiguous"):
        native.attention(torch.zeros(48, 4).t(), starts, 1, scale=1.0, turn=None, bias=None)
    with pytest.raises(ValueError, match="GELU"):
        native.gelu_(torch.zeros(4))


def test_processes_that_build_at_once_end_with_one_library(native, tmp_path) -> None:
    script = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\nfrom shared.nn.native.kernels import kernels\nprint(kernels()[0].name)"
    environment = {"PATH": "/usr/bin:/bin", "GOWHY_KERNELS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    assert {process.communicate(timeout=240)[0].strip() for process in started} == {native.name}
    assert [path.name for path in tmp_path.iterdir()] == [f"kernels-{native.name.removeprefix('avx512-')}.so"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({"GOWHY_KERNELS": "off"}, "off"), ({"PATH": "", "CXX": ""}, "compiler"), ({"CXX": "false"}, "could not build")],
    ids=["off", "no compiler", "broken compiler"],
)
def test_without_them_there_is_a_reason(environment, reason: str, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found, why = kernels.__wrapped__()
    assert found is None
    assert reason in why
