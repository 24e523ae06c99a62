"""Channels: order, rounding, GOA tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from shared.errors import IntegrityError, MissingInput
from shared.models.channels import Channels, check_width, goa_matrices

COLUMNS = ["EntryID", "term", "channel", "score"]


def test_channels_stand_in_the_order_of_their_names() -> None:
    channels = Channels(("knn", "mlp"), ("IEA",))
    knn, mlp = np.arange(6, dtype=np.float32).reshape(2, 3), np.full((2, 3), 7, np.float32)
    goa = {"IEA": sparse.csr_array(np.array([[0, 1.0], [0, 0]], np.float32))}
    stacked = channels.stack(
        {"mlp": mlp, "knn": knn}, np.array([0, 0.5], np.float32), goa, np.array([2, 0], dtype=np.int64)
    )
    assert channels.names == ("level1:knn", "level1:mlp", "missing", "goa:IEA")
    assert stacked.shape == (2, 2, len(channels))
    np.testing.assert_array_equal(stacked[..., 0], [[2, 0], [5, 3]])
    np.testing.assert_array_equal(stacked[..., 1], 7)
    np.testing.assert_array_equal(stacked[..., 2], [[0, 0.5], [0, 0.5]])
    np.testing.assert_array_equal(stacked[..., 3], [[0, 1], [0, 0]])


def test_float32_and_stored_float16_logits_give_the_same_channels() -> None:
    exact = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    channels, columns = Channels(("knn",)), np.arange(3)
    missing = np.zeros(3, np.float32)
    a = channels.stack({"knn": exact}, missing, None, columns)
    b = channels.stack({"knn": exact.astype(np.float16)}, missing, None, columns)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    assert (a[..., 0] != exact).any()


def test_absent_goa_reads_as_no_annotation() -> None:
    channels = Channels(("knn",), ("IEA", "ISS"))
    for goa in (None, {}, {"other": sparse.csr_array((1, 1), dtype=np.float32)}):
        stacked = channels.stack({"knn": np.zeros((1, 1), np.float32)}, np.zeros(1, np.float32), goa, np.array([0]))
        assert (stacked == 0).all()


def test_a_model_without_logits_is_named() -> None:
    with pytest.raises(MissingInput, match="mlp"):
        Channels(("knn", "mlp")).stack({"knn": np.zeros((1, 1))}, np.zeros(1, np.float32), None, np.array([0]))


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (3,)])
def test_level1_matrices_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    check_width({"a": np.zeros((2, 3))}, 3)
    with pytest.raises(IntegrityError):
        check_width({"a": np.zeros((2, 3)), "b": np.zeros(shape)}, 3)


def test_goa_lines_become_matrices_and_the_highest_repeat_counts() -> None:
    chunks = [
        pd.DataFrame([("P1", "A", "ISS", 0.5), ("P2", "B", "IEA", 1.0), ("PX", "B", "IEA", 1.0)], columns=COLUMNS),
        pd.DataFrame([("P1", "A", "ISS", 1.0), ("P1", "A", "ISS", 0.2), ("P1", "Z", "IEA", 1.0)], columns=COLUMNS),
    ]
    matrices = goa_matrices(chunks, ["P1", "P2"], ["A", "B"])
    assert list(matrices) == ["IEA", "ISS"]
    np.testing.assert_array_equal(matrices["IEA"].toarray(), [[0, 0], [0, 1]])
    np.testing.assert_array_equal(matrices["ISS"].toarray(), [[1, 0], [0, 0]])


def test_a_header_only_goa_table_has_no_kinds() -> None:
    assert goa_matrices([pd.DataFrame(columns=COLUMNS)], ["P1"], ["A"]) == {}
    assert goa_matrices([], ["P1"], ["A"]) == {}


def test_components_of_the_other_aspects_stand_last_and_are_alike_for_every_term() -> None:
    channels = Channels(("knn",), ("IEA",), cross=2)
    assert channels.names == ("level1:knn", "missing", "goa:IEA", "cross:0", "cross:1")
    assert channels.kinds == ("level1:knn", "missing", "goa:IEA", "cross", "cross")
    level1, cross = {"knn": np.zeros((2, 3), np.float32)}, np.array([[1, 2], [3, 4]], np.float32)
    stacked = channels.stack(level1, np.zeros(3, np.float32), None, np.arange(3), cross)
    assert stacked.shape == (2, 3, len(channels))
    np.testing.assert_array_equal(stacked[..., channels.cross_part], np.repeat(cross[:, None], 3, axis=1))
    with pytest.raises(MissingInput, match="other aspects"):
        channels.stack(level1, np.zeros(3, np.float32), None, np.arange(3))
