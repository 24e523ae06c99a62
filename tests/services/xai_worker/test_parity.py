from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.xai_worker.parity import check_embedding, check_score
from shared.errors import ParityError


@given(st.floats(-9.2, 9.2), st.floats(-0.0099, 0.0099))
def test_rounding_to_float16_is_never_a_difference(logit: float, shift: float) -> None:
    check_score(logit + shift, np.float16(logit), what="x")


@given(st.floats(-9.2, 9.2), st.sampled_from([-1, 1]))
def test_more_than_the_tolerance_is_refused_with_both_numbers(logit: float, sign: int) -> None:
    stored = np.float16(logit)
    recomputed = float(stored) + sign * 0.02
    with pytest.raises(ParityError) as caught:
        check_score(recomputed, stored, what="cnn, P1, GO:1")
    assert f"{recomputed:.6g}" in str(caught.value)
    assert f"{float(stored):.6g}" in str(caught.value)


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ParityError):
        check_score(float("nan"), np.float16(1), what="x")


def test_an_embeddings_float16_copy_is_the_same_embedding() -> None:
    vector = np.random.default_rng(0).normal(size=300).astype(np.float32)
    gate = check_embedding(vector, vector.astype(np.float16), encoder="esm2", what="x")
    assert 0 < gate.relative_error < 5e-4
    with pytest.raises(ParityError, match="different encoder"):
        check_embedding(vector * np.float32(1.002), vector, encoder="esm2", what="x")


def test_a_vector_of_zeros_has_no_relative_error() -> None:
    zero = np.zeros(3, np.float32)
    assert check_embedding(zero, zero, encoder="t5", what="x").relative_error == 0
    with pytest.raises(ParityError):
        check_embedding(np.ones(3, np.float32), zero, encoder="t5", what="x")
