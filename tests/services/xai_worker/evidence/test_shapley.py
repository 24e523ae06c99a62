from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from captum.attr import ShapleyValues
from hypothesis import given
from hypothesis import strategies as st

from services.xai_worker.evidence.shapley import shapley_interactions, shapley_values


def game(players: int, seed: int, terms: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1 << players, terms))


@given(players=st.integers(1, 7), seed=st.integers(0, 999))
def test_shares_sum_to_what_all_players_add(players: int, seed: int) -> None:
    values = game(players, seed)
    total = shapley_values(values, players).sum(axis=0)
    np.testing.assert_allclose(total, values[-1] - values[0], atol=1e-9)


def test_captum_gives_the_same_values() -> None:
    """Captum enumerates the orders of four players; ours takes the sixteen coalitions at once."""
    players = 4
    values = game(players, 7, terms=2)

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        number = (inputs.round().long() * (2 ** torch.arange(players))).sum(1)
        return torch.from_numpy(values)[number]

    whole = torch.ones(1, players, dtype=torch.float64)
    for term in range(2):
        wanted = ShapleyValues(forward).attribute(whole, baselines=torch.zeros_like(whole), target=term)
        np.testing.assert_allclose(shapley_values(values, players)[:, term], wanted[0].numpy(), atol=1e-6)


def test_players_that_add_nothing_or_the_same_are_treated_so() -> None:
    """Null player, symmetry and linearity: with efficiency they define the Shapley value."""
    masks = np.arange(8)
    first, second = masks & 1, masks >> 1 & 1
    values = (2.0 * first * second + first + second).astype(float)[:, None]
    shares = shapley_values(values, 3)[:, 0]
    assert shares.tolist() == pytest.approx([2.0, 2.0, 0.0])
    other = game(3, 1, terms=1)
    np.testing.assert_allclose(
        shapley_values(values + 3 * other, 3), shapley_values(values, 3) + 3 * shapley_values(other, 3)
    )


def test_the_interaction_of_a_product_is_its_factor_and_of_a_sum_nothing() -> None:
    masks = np.arange(8)
    one, two, three = (masks >> i & 1 for i in range(3))
    pairs = shapley_interactions((5.0 * one * two + 2.0 * three)[:, None], 3)
    assert {pair: value[0] for pair, value in pairs.items()} == pytest.approx({(0, 1): 5.0, (0, 2): 0.0, (1, 2): 0.0})


def test_a_hundred_terms_and_all_background_proteins_take_one_call() -> None:
    values = np.random.default_rng(0).normal(size=(128, 32, 100))
    started = time.perf_counter()
    shares = shapley_values(values, 7)
    assert shares.shape == (7, 32, 100)
    assert np.abs(shares.sum(0) - (values[-1] - values[0])).max() <= 1e-5
    assert time.perf_counter() - started < 5.0
