"""What a row of `make bench` gives back: comparisons, each of them one line of the table with its own gate."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gates import Gate
from benchmarks.peers.contest import Contest


@dataclass(frozen=True)
class Comparison:
    """Gowhy beside one peer at equal output.

    Attributes:
        name: of the line.
        peer: who is compared with.
        sizes: of the work, in words.
        least: gate on the ratio (peer's seconds by ours); None where no speed is compared.
        ours: seconds of every round.
        theirs: the peer's seconds of the same rounds.
        difference: numerical difference of the two results; NaN never passes.
        tolerance: the largest difference that counts as equal output.
        measure: what the difference is, such as `1 - cosine`.
        fraction: of the limit that was measured in the same run; None where there is none.
        least_fraction: gate on it; None where it is only shown.
        also: further conditions, such as memory.
        refused: why the peer could not be asked; the line then does not hold.
    """

    name: str
    peer: str
    sizes: str
    least: float | None
    ours: Sequence[float]
    theirs: Sequence[float]
    difference: float
    tolerance: float
    measure: str = "largest difference"
    fraction: float | None = None
    least_fraction: float | None = None
    also: Sequence[Gate] = field(default=())
    refused: str | None = None

    @property
    def ratio(self) -> float | None:
        """Median over rounds: the two runs of a round were neighbours in time."""
        if not self.ours or len(self.ours) != len(self.theirs):
            return None
        return statistics.median(b / a for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def spread(self) -> float | None:
        """Slowest by fastest round, of whichever side varied more."""
        sides = [side for side in (self.ours, self.theirs) if side]
        return max((max(side) / min(side) for side in sides), default=None)

    @property
    def misses(self) -> list[str]:
        """What does not hold, in words; empty for a line that passes."""
        if self.refused is not None:
            return [self.refused]
        found = []
        if self.least is not None and not (self.ratio is not None and self.ratio >= self.least):
            found.append(f"ratio {_number(self.ratio)} is below {self.least}")
        if not self.difference <= self.tolerance:
            found.append(f"{self.measure} {self.difference:.2g} is above {self.tolerance:.2g}")
        if self.least_fraction is not None and not (self.fraction is not None and self.fraction >= self.least_fraction):
            found.append(f"{_number(self.fraction)} of the limit is below {self.least_fraction}")
        return [*found, *(f"{gate.name}: {gate.found}" for gate in self.also if not gate.holds)]

    def gate(self) -> Gate:
        """The line as a named condition."""
        return Gate(self.name, not self.misses, "; ".join(self.misses) or "holds")

    def document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "peer": self.peer,
            "sizes": self.sizes,
            "ratio": self.ratio,
            "least": self.least,
            "spread": self.spread,
            "seconds": {"ours": list(self.ours), "peer": list(self.theirs)},
            "difference": self.difference if math.isfinite(self.difference) else None,
            "tolerance": self.tolerance,
            "measure": self.measure,
            "fraction_of_limit": self.fraction,
            "least_fraction": self.least_fraction,
            "also": [{"name": gate.name, "holds": gate.holds, "found": gate.found} for gate in self.also],
            "misses": self.misses,
        }

    def cells(self) -> list[str]:
        """The line's cells, in the order of `HEADINGS`."""
        if self.refused is not None:
            return [self.name, self.peer, self.sizes, "-", "-", "-", "-", "refused"]
        gate = "" if self.least is None else f" (>= {self.least:g})"
        share = "-" if self.fraction is None else f"{100 * self.fraction:.0f} %"
        verdict = "; ".join(self.misses) or "ok" + "".join(f"; {gate.name} {gate.found}" for gate in self.also)
        difference = f"{self.difference:.1e} (<= {self.tolerance:.0e})"
        return [
            self.name,
            self.peer,
            self.sizes,
            f"{_number(self.ratio)}x{gate}" if self.ratio is not None else "-",
            _number(self.spread),
            difference,
            share,
            verdict,
        ]


HEADINGS = ("row", "peer", "sizes", "ratio", "spread", "difference", "of the limit", "verdict")


def compare(contest: Contest, ours: str, peer: str, **line: Any) -> Comparison:
    """A comparison out of a contest; a peer that was skipped in it is refused.

    Args:
        contest: both ways' seconds.
        ours: our way's name in it.
        peer: the peer's.
        line: the other members of `Comparison`.
    """
    if peer in contest.skipped:
        return Comparison(peer=peer, ours=(), theirs=(), refused=contest.skipped[peer], **line)
    return Comparison(peer=peer, ours=contest.seconds[ours], theirs=contest.seconds[peer], **line)


def refusal(name: str, reason: str) -> Comparison:
    """The line of a row that could not run at all."""
    return Comparison(name, "-", "-", None, (), (), math.nan, 0.0, refused=reason)


def table(lines: Sequence[Comparison]) -> str:
    """Columns of equal width."""
    rows = [list(HEADINGS), *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
