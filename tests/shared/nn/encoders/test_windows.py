from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.nn.encoders.windows import Window, windows


@st.composite
def cuts(draw):
    window = draw(st.integers(1, 60))
    return draw(st.integers(1, 2000)), window, draw(st.integers(0, window - 1))


@given(cuts())
def test_windows_are_balanced_and_own_every_residue_once(cut) -> None:
    length, window, overlap = cut
    found = windows(length, window, overlap)
    sizes = [w.stop - w.start for w in found]
    assert max(sizes) <= window
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert [w.stop - following.start for w, following in pairwise(found)] == [overlap] * (len(found) - 1)
    owned = [residue for w in found for residue in range(w.own_start, w.own_stop)]
    assert owned == list(range(length))
    assert all(w.start <= w.own_start < w.own_stop <= w.stop for w in found)


@given(cuts())
def test_there_is_no_way_with_fewer_windows(cut) -> None:
    length, window, overlap = cut
    count = len(windows(length, window, overlap))
    assert count == 1 or (count - 1) * window - (count - 2) * overlap < length


def test_known_cuts() -> None:
    assert windows(10, 10) == (Window(0, 10, 0, 10),)
    assert windows(11, 10) == (Window(0, 6, 0, 6), Window(6, 11, 6, 11))
    assert windows(16, 10, 4) == (Window(0, 10, 0, 8), Window(6, 16, 8, 16))
    assert [w.owned for w in windows(8891, 1022)] == [988] * 8 + [987]


@pytest.mark.parametrize(("length", "window", "overlap"), [(0, 10, 0), (5, 10, 10), (5, 10, -1)])
def test_impossible_cuts(length: int, window: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot cut"):
        windows(length, window, overlap)
