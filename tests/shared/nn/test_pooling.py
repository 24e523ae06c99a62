"""The compiled pooling against torch's operators, which it falls back to."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.nn.pooling import pool

Pooled = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def pooled(state: torch.Tensor, present: torch.Tensor, weights: torch.Tensor) -> Pooled:
    leaf = state.clone().requires_grad_(True)
    highest, mean = pool(leaf, present)
    (highest * weights[0] + mean * weights[1]).sum().backward()
    assert leaf.grad is not None
    return highest.detach(), mean.detach(), leaf.grad


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.booleans())
def test_values_and_gradients_are_those_of_torch(seed: int, length: int, tied: bool) -> None:
    rng = np.random.default_rng(seed)
    present = torch.from_numpy(rng.random((3, length)) < 0.6)
    present[:, rng.integers(length)] = True
    values = rng.integers(-2, 2, (3, 5, length)) if tied else rng.normal(size=(3, 5, length))
    state = torch.from_numpy(values.astype(np.float32)) * present[:, None]
    weights = torch.from_numpy(rng.normal(size=(2, 3, 5)).astype(np.float32))
    ours = pooled(state, present, weights)
    theirs = pooled(state.double(), present, weights.double())  # not float32: torch's operators
    kept = (theirs[2] * present[:, None]).float()  # an absent state is 0 whatever came before it
    for mine, other in zip(ours, (*theirs[:2], kept), strict=True):
        torch.testing.assert_close(mine, other.float(), atol=1e-6, rtol=1e-5)


def test_states_that_are_not_contiguous_are_read_in_their_order() -> None:
    state, present = torch.randn(2, 30, 4).transpose(1, 2), torch.ones(2, 30, dtype=torch.bool)
    highest, mean = pool(state, present)
    torch.testing.assert_close(highest, state.amax(dim=2))
    torch.testing.assert_close(mean, state.mean(dim=2))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    state = torch.zeros(1, 1, 20)
    state[0, 0, 3] = value
    assert not torch.isfinite(pool(state, torch.ones(1, 20, dtype=torch.bool))[1]).all()
