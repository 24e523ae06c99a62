"""Transforms: the same in numpy and torch, fitted on the given rows only, and undone by nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared.errors import IntegrityError
from shared.models.feature_space import FeatureSpace
from shared.models.features import Features
from shared.nn.transforms import Transform, transform_vectors

VECTORS = hnp.arrays(
    np.float32, st.tuples(st.integers(2, 12), st.integers(1, 5)), elements=st.floats(-50, 50, width=16)
)


def features(dense: dict[str, np.ndarray], taxa: np.ndarray) -> Features:
    count = len(taxa)
    return Features([f"P{i}" for i in range(count)], ["M"] * count, dense, taxa, None)


@settings(deadline=None, max_examples=40)
@given(VECTORS, st.sampled_from(["v1", "v2"]), st.booleans())
def test_numpy_and_torch_agree(vectors: np.ndarray, version: str, normalize: bool) -> None:
    fitted = Transform.fit(version, normalize, {"esm2": vectors}, np.arange(len(vectors)))
    mean, std = (
        torch.from_numpy(values["esm2"]) if normalize else None
        for values in (fitted.mean or {"esm2": None}, fitted.std or {"esm2": None})
    )
    tensor = transform_vectors(torch.from_numpy(vectors), version, mean, std)
    np.testing.assert_allclose(fitted.apply("esm2", vectors), tensor.numpy(), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(VECTORS)
def test_v2_has_unit_length_except_for_zero(vectors: np.ndarray) -> None:
    norm = np.linalg.norm(Transform("v2", {}, {}).apply("text", vectors), axis=1)
    nonzero = np.linalg.norm(vectors, axis=1) > 1e-4
    np.testing.assert_allclose(norm[nonzero], 1.0, rtol=1e-4)
    assert np.isfinite(norm).all()


def test_standardised_columns_have_mean_zero_and_deviation_one() -> None:
    vectors = np.random.default_rng(0).normal(3, 2, size=(5000, 6)).astype(np.float16)
    rows = np.arange(0, 5000, 2)
    done = Transform.fit("v1", True, {"t5": vectors}, rows).apply("t5", vectors[rows])
    np.testing.assert_allclose(done.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(done.std(0), 1, atol=1e-4)


def test_other_rows_do_not_enter_the_fit() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    rows = np.arange(20)
    changed = vectors.copy()
    changed[20:] = 1e6
    first, second = (Transform.fit("v2", True, {"esm2": array}, rows) for array in (vectors, changed))
    np.testing.assert_array_equal(first.mean["esm2"], second.mean["esm2"])
    np.testing.assert_array_equal(first.std["esm2"], second.std["esm2"])


def test_constant_and_rare_columns_stay_small() -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    vectors[:, 1] = 5.0
    vectors[:, 2] = 0.0
    vectors[0, 2] = 1.0
    done = Transform.fit("v1", True, {"text": vectors}, np.arange(1000)).apply("text", vectors)
    assert np.isfinite(done).all()
    assert np.abs(done).max() < 20


def test_restored_transform_is_the_same() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    fitted = Transform.fit("v2", True, {"esm2": vectors, "t5": vectors[:, :0]}, np.arange(30))
    copy = Transform.restore("v2", fitted.arrays())
    np.testing.assert_array_equal(copy.apply("esm2", vectors), fitted.apply("esm2", vectors))
    assert set(copy.mean) == {"esm2"}


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(IntegrityError, match="v9"):
        Transform.restore("v9", {})


def test_the_taxon_block_knows_frequent_taxa_and_one_other() -> None:
    taxa = np.array([9606, 9606, 9606, 562, 562, 0, 0, 0, 7])
    space = FeatureSpace.fit(features({}, taxa), np.arange(8), version="v1", normalize=False, min_taxon_proteins=2)
    assert space.taxa.tolist() == [562, 9606]
    block = space.matrix(features({}, np.array([9606, 562, 0, 7, 10**9])), np.arange(5))
    np.testing.assert_array_equal(block, [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])


def test_blocks_lie_where_slices_say() -> None:
    taxa = np.full(6, 5)
    rng = np.random.default_rng(0)
    made = features({"text": rng.normal(size=(6, 2)), "esm2": rng.normal(size=(6, 3)), "t5": np.zeros((6, 0))}, taxa)
    space = FeatureSpace.fit(made, np.arange(6), version="v1", normalize=False, min_taxon_proteins=1)
    assert list(space.blocks.items()) == [("esm2", 3), ("text", 2), ("taxon", 2)]
    matrix = space.matrix(made, np.arange(6))
    assert matrix.shape == (6, space.width)
    np.testing.assert_allclose(matrix[:, space.slices()["text"]], made.dense["text"], rtol=1e-6)
