"""The neighbour search against scikit-learn's brute force, in every way of computing it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from shared.nn import nearest as module
from shared.nn.nearest import nearest


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def cloud(kind: str, queries: int = 60, size: int = 5000, dim: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """`families`: few near ones each; `alike`: everything within a hair of everything."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(300, dim))
    spread = 0.7
    if kind == "alike":
        centres, spread = np.ones((1, dim)), 0.05
    parts = [centres[rng.integers(0, len(centres), n)] + spread * rng.normal(size=(n, dim)) for n in (queries, size)]
    return unit(parts[0]).astype(np.float32), unit(parts[1]).astype(np.float16)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["families", "alike"])
def test_every_neighbour_is_found(kind: str, half: bool) -> None:
    queries, reference = cloud(kind)
    position, cosine = nearest(queries, reference, 10, half=half)
    exact = queries.astype(np.float64) @ reference.astype(np.float64).T
    wanted = np.sort(exact, axis=1)[:, ::-1][:, :10]
    assert np.allclose(cosine, wanted, atol=1e-6)
    assert np.allclose(np.take_along_axis(exact, position, 1), wanted, atol=1e-6)
    if kind == "families":  # where all look alike, the peer's own normalisation of float16 vectors decides
        peer = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(reference.astype(np.float32))
        theirs = peer.kneighbors(queries, return_distance=False)
        assert [set(row) for row in position] == [set(row) for row in theirs]


def test_where_all_look_alike_bfloat16_is_not_trusted() -> None:
    queries, reference = cloud("alike")
    assert not module._certified(queries, reference, 10, None)[2].any()
    queries, reference = cloud("families")
    assert module._certified(queries, reference, 10, None)[2].mean() > 0.5


@pytest.mark.parametrize("half", [False, True])
def test_excluded_pairs_and_short_lists(half: bool) -> None:
    queries, reference = cloud("families", size=300)
    own = np.random.default_rng(0).integers(0, 3, 300)
    asked = np.random.default_rng(1).integers(0, 3, len(queries))
    position, cosine = nearest(
        queries, reference, 10, lambda place, which: asked[which][:, None] == own[place][None, :], half=half
    )
    assert not (own[position] == asked[:, None]).any()
    exact = np.where(asked[:, None] == own[None, :], -np.inf, queries @ reference.astype(np.float32).T)
    assert np.allclose(cosine, np.sort(exact, axis=1)[:, ::-1][:, :10], atol=1e-6)
    only = nearest(
        queries, reference, 10, lambda place, which: np.arange(300)[place][None, :] >= 4 + 0 * which[:, None], half=half
    )
    assert np.isneginf(only[1][:, 4:]).all()
    assert np.isfinite(only[1][:, :4]).all()
    assert nearest(queries, reference[:3], 10, half=half)[0].shape == (len(queries), 3)


@pytest.mark.parametrize("half", [False, True])
def test_equal_cosines_come_in_the_order_of_the_reference(half: bool) -> None:
    queries, reference = cloud("families", size=200)
    twice = np.concatenate([reference, reference])
    position, cosine = nearest(queries, twice, 8, half=half)
    assert (position[:, 1::2] == position[:, ::2] + 200).all()
    assert np.array_equal(cosine[:, 1::2], cosine[:, ::2])
