from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from services.train.data.sampling import SAMPLERS
from services.train.data.weights import LEAST, MOST, WEIGHTS
from shared.config import Level1Config


def test_the_config_knows_exactly_the_registries_names() -> None:
    fields = Level1Config.model_fields
    assert set(get_args(fields["class_weight"].annotation)) == set(WEIGHTS)
    assert set(get_args(fields["sampling"].annotation)) == set(SAMPLERS)


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0, 20)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_every_scheme_has_mean_one_and_no_term_is_lost(terms) -> None:
    counts, bits = zip(*terms, strict=True)
    labels = sparse.csr_array((np.arange(40)[:, None] < np.array(counts)[None, :]).astype(np.float32))
    for name, scheme in WEIGHTS.items():
        weights = scheme(labels, np.array(bits, np.float32))
        assert weights.dtype == np.float32
        assert weights.shape == (len(terms),)
        assert np.isclose(weights.mean(), 1.0, atol=1e-4), name
        assert weights.min() > 0
        assert weights.max() / weights.min() <= MOST / LEAST * 1.001


def test_informative_and_rare_terms_count_more() -> None:
    labels = sparse.csr_array(np.array([[1, 1], [1, 0], [1, 0], [1, 0]], np.float32))
    assert np.allclose(WEIGHTS["none"](labels, np.array([1.0, 3.0], np.float32)), 1)
    assert np.allclose(WEIGHTS["ia"](labels, np.array([1.0, 3.0], np.float32)), [0.5, 1.5])
    assert np.allclose(WEIGHTS["balanced"](labels, np.zeros(2, np.float32)), [0.4, 1.6])
    assert np.allclose(WEIGHTS["ia"](labels, np.zeros(2, np.float32)), 1), "no information at all: all equal"


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_an_epoch_is_drawn_from_the_rows_and_repeats_with_the_seed(name: str) -> None:
    rows, clusters = np.array([3, 5, 8, 9]), np.array([7, 7, 7, 1, 7, 1, 7, 7, 2, 2])
    drawn = [SAMPLERS[name](rows, clusters, np.random.default_rng(4)) for _ in range(2)]
    assert drawn[0].tolist() == drawn[1].tolist()
    assert set(drawn[0].tolist()) <= set(rows.tolist())
    assert drawn[0].dtype == np.int64


def test_uniform_shows_every_row_once() -> None:
    rows = np.arange(5, 25)
    drawn = SAMPLERS["uniform"](rows, np.zeros(30, np.int64), np.random.default_rng(0))
    assert sorted(drawn.tolist()) == rows.tolist()
    assert drawn.tolist() != rows.tolist()


def test_cluster_sampling_shows_one_random_member_of_each_cluster() -> None:
    clusters = np.array([0, 0, 0, 1, 2, 2])
    generator = np.random.default_rng(0)
    epochs = [SAMPLERS["cluster"](np.arange(6), clusters, generator) for _ in range(300)]
    assert all(sorted(clusters[epoch].tolist()) == [0, 1, 2] for epoch in epochs)
    of_the_first = np.bincount([row for epoch in epochs for row in epoch if clusters[row] == 0])
    assert (of_the_first > 60).all()
    assert len({tuple(clusters[epoch].tolist()) for epoch in epochs}) == 6, "clusters come in any order"
