from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.xai_worker.result import ranks, residue_values, round_significant, top_residues

maybe = st.lists(st.none() | st.floats(-5, 5), max_size=30)


@given(maybe)
def test_ranks_count_what_has_a_value_from_highest_to_lowest(values: list[float | None]) -> None:
    found = ranks(values)
    assert [rank is None for rank in found] == [value is None for value in values]
    known = sorted(
        (rank, value) for rank, value in zip(found, values, strict=True) if rank is not None and value is not None
    )
    assert [rank for rank, _ in known] == list(range(1, len(known) + 1))
    assert [value for _, value in known] == sorted((value for _, value in known), reverse=True)


@given(maybe)
def test_top_residues_all_raise_the_score(values: list[float | None]) -> None:
    sequence = "ACDEFGHIKL" * 3
    top = top_residues(sequence[: len(values)], values)
    positive = [value for value in values if value is not None and round_significant(value) > 0]
    assert len(top) == min(10, len(positive))
    assert all(item.residue == sequence[item.position - 1] and item.value > 0 for item in top)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_twice_is_rounding_once(value: float) -> None:
    once = round_significant(value)
    assert round_significant(once) == once
    assert once == pytest.approx(value, rel=1e-5)


def test_missing_is_none_and_no_number_is_an_error() -> None:
    assert residue_values(np.array([1.23456789, np.nan, -0.0])) == [1.23457, None, 0.0]
    with pytest.raises(ValueError, match="not a finite number"):
        round_significant(float("inf"))
