"""How a long sequence is cut: balanced windows, each of which owns a part of the residues."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Window:
    """Residues `start:stop` (0-based, half open) go through the model together; it owns `own_start:own_stop`."""

    start: int
    stop: int
    own_start: int
    own_stop: int

    @property
    def owned(self) -> int:
        """How many residues the window speaks for."""
        return self.own_stop - self.own_start


def windows(length: int, window: int, overlap: int = 0) -> tuple[Window, ...]:
    """Cut `length` residues into the fewest windows of at most `window` residues.

    Window sizes differ by at most one, the longer ones first. Neighbours share exactly `overlap`
    residues; the boundary between what they own lies in the middle of the shared part, so that a
    residue is read off where it has context on both sides. Every residue is owned exactly once:
    the mean over a protein is the mean of the windows' means, weighted by what they own (without
    overlap: by their lengths).

    Raises:
        ValueError: no residue, or not 0 <= overlap < window.
    """
    if length < 1 or not 0 <= overlap < window:
        raise ValueError(f"cannot cut {length} residues into windows of {window} with overlap {overlap}")
    if length <= window:
        return (Window(0, length, 0, length),)
    count = -(-(length - overlap) // (window - overlap))
    size, longer = divmod(length + (count - 1) * overlap, count)
    spans: list[tuple[int, int]] = []
    start = 0
    for position in range(count):
        stop = start + size + (position < longer)
        spans.append((start, stop))
        start = stop - overlap
    borders = [0, *(start + overlap // 2 for start, _ in spans[1:]), length]
    return tuple(Window(*span, *own) for span, own in zip(spans, pairwise(borders), strict=True))
