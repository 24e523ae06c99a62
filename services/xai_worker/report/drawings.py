"""What the page's drawings are made of, worked out before the templates run; lengths are SVG units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.xai_worker.report.text import signed, source_name
from services.xai_worker.report.view import shade_of
from services.xai_worker.result import (
    AccountExplanation,
    FaithfulnessGate,
    ModalityExplanation,
    ResidueExplanation,
)

TRACK_WIDTH, TRACK_HEIGHT, SPARK_WIDTH, SPARK_HEIGHT = 1000.0, 54.0, 300.0, 34.0
FALL_WIDTH, FALL_ROW = 520.0, 30.0
CURVE_WIDTH, CURVE_HEIGHT = 460.0, 220.0
LONG_SEQUENCE = 2000  # residues; beyond this several share a bar


@dataclass(frozen=True, slots=True)
class Bars:
    """A track as two paths of vertical strokes around `zero`."""

    label: str
    up: str
    down: str
    unseen: str
    zero: float
    stroke: float
    limit: float


@dataclass(frozen=True, slots=True)
class Step:
    """One row of a waterfall: from `start` to `stop`, whiskers from `low` to `high` (None: no interval)."""

    name: str
    value: float
    y: float
    x: float
    width: float
    low: float | None
    high: float | None
    tip: str
    kind: str  # up, down or total


@dataclass(frozen=True, slots=True)
class Waterfall:
    """From the reference to the score."""

    steps: list[Step]
    height: float
    ticks: list[tuple[float, str]]
    note: str


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the faithfulness curve."""

    x: float
    y: float
    tip: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The explanation's curve, the random mean's, and the random band as a polygon."""

    points: list[Point]
    line: str
    mean: str
    band: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    end_mean: float  # where the random mean ends


def bars_of(explanation: ResidueExplanation, width: float = TRACK_WIDTH, height: float = TRACK_HEIGHT) -> Bars:
    """A stroke per residue; in a narrow drawing several residues share one, the largest speaks."""
    values = explanation.values
    limit = max((abs(value) for value in values if value is not None), default=0.0) or 1.0
    count = len(values)
    bins = count if count * 1.5 <= width or (width == TRACK_WIDTH and count <= LONG_SEQUENCE) else int(width / 1.5)
    zero, step = height / 2, width / bins
    up: list[str] = []
    down: list[str] = []
    unseen: list[str] = []
    for index in range(bins):
        part = values[index * count // bins : max((index + 1) * count // bins, index * count // bins + 1)]
        seen = [value for value in part if value is not None]
        x = (index + 0.5) * step
        if not seen:
            unseen.append(f"M{x:.1f} {zero - 3:.0f}v6")
            continue
        value = max(seen, key=abs)
        if value:
            (up if value > 0 else down).append(f"M{x:.1f} {zero:.0f}v{-value / limit * (zero - 1):.1f}")
    label = f"{explanation.model} {explanation.method}"
    return Bars(label, "".join(up), "".join(down), "".join(unseen), zero, max(0.8, 0.85 * step), limit)


def ruler_ticks(length: int, width: float = TRACK_WIDTH) -> list[tuple[float, str]]:
    """1, round numbers, and the last residue."""
    step = next((s for s in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if length / s <= 12), 10_000)
    marks = [1, *range(step, length - step // 2, step), length]
    return [((mark - 0.5) * width / length, str(mark)) for mark in dict.fromkeys(marks)]


@dataclass(frozen=True, slots=True)
class _Row:
    """A part of a waterfall before it is drawn; `low` and `high` are the interval's ends, or the value itself."""

    name: str
    value: float
    low: float
    high: float
    has_interval: bool


def waterfall_of(item: ModalityExplanation | AccountExplanation) -> Waterfall:
    """Rows from the reference's logit to the score; parts by falling size, those without effect in the note."""
    rows, first, note = _rows_of(item)
    if silent := [row.name for row in rows if row.value == 0]:
        note += f"; without effect: {', '.join(silent)}"
    rows = [row for row in rows if row.value != 0]
    start, end = item.score.reference or 0.0, item.score.logit
    levels = [start]
    for row in rows:
        levels.append(levels[-1] + row.value)
    reach = [start, end, *levels, *(level + e for level, r in zip(levels, rows, strict=False) for e in (r.low, r.high))]
    low, high = min(reach), max(reach)
    scale = FALL_WIDTH / ((high - low) or 1.0)

    def place(value: float) -> float:
        return (value - low) * scale

    def total(name: str, value: float, y: float) -> Step:
        return Step(name, value, y, 0, place(value), None, None, f"{name}: {signed(value, 3)}", "total")

    steps = [total(first, start, 0)]
    for index, (row, before) in enumerate(zip(rows, levels, strict=False), start=1):
        tip = f"{row.name}: {signed(row.value, 3)}"
        ends: tuple[float | None, float | None] = (None, None)
        if row.has_interval:
            tip += f" (95 % {signed(row.low, 3)} to {signed(row.high, 3)})"
            ends = (place(before + row.low), place(before + row.high))
        x, width = place(min(before, before + row.value)), abs(row.value) * scale
        kind = "up" if row.value > 0 else "down"
        steps.append(Step(row.name, row.value, index * FALL_ROW, x, width, *ends, tip, kind))
    steps.append(total("this protein", end, len(steps) * FALL_ROW))
    ticks = [(place(value), signed(value, 3)) for value in nice_ticks(low, high)]
    return Waterfall(steps, len(steps) * FALL_ROW, ticks, note)


def _rows_of(item: ModalityExplanation | AccountExplanation) -> tuple[list[_Row], str, str]:
    """The rows, what they start from, and a note."""
    if isinstance(item, ModalityExplanation):
        shares = sorted(item.shares, key=lambda share: -abs(share.value))
        note = f"from the mean of {item.background} background proteins; whiskers: 95 % over them"
        rows = [_Row(source_name(s.modality), s.value, s.low, s.high, True) for s in shares]
        return rows, "background proteins", note
    parts = [(source_name(p.source), p.value) for p in sorted(item.parts, key=lambda part: -abs(part.value))]
    rows = [_Row(name, value, value, value, False) for name, value in (*parts, ("remainder", item.remainder))]
    return rows, "neutral input", "the remainder is what the parts do not explain"


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside the range."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(step * k, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def curve_of(gate: FaithfulnessGate) -> Curve:
    """How the logit falls as residues are masked; both axes start at no change."""
    curve = sorted(gate.curve, key=lambda point: point.masked)
    most = max((point.masked for point in curve), default=1)
    drops = [value for p in curve for value in (p.drop, p.random_low, p.random_high)]
    low, high = min([0.0, *drops]), max([0.0, *drops])
    scale = (CURVE_HEIGHT - 10) / ((high - low) or 1.0)

    def x(masked: float) -> float:
        return masked / most * CURVE_WIDTH

    def y(drop: float) -> float:
        return 5 + (high - drop) * scale

    points = [
        Point(
            x(p.masked), y(p.drop),
            f"{p.masked} masked: falls by {p.drop:.3g}; random {p.random_mean:.3g} "
            f"(95 % {p.random_low:.3g} to {p.random_high:.3g})",
        )
        for p in curve
    ]  # fmt: skip
    origin = f"{x(0):.1f},{y(0):.1f}"
    upper = [f"{x(p.masked):.1f},{y(p.random_high):.1f}" for p in curve]
    lower = [f"{x(p.masked):.1f},{y(p.random_low):.1f}" for p in reversed(curve)]
    return Curve(
        points=points,
        line=" ".join([origin, *(f"{p.x:.1f},{p.y:.1f}" for p in points)]),
        mean=" ".join([origin, *(f"{x(p.masked):.1f},{y(p.random_mean):.1f}" for p in curve)]),
        band=" ".join([origin, *upper, *lower]),
        x_ticks=[(x(v), f"{v:g}") for v in nice_ticks(0, most) if v == int(v)],
        y_ticks=[(y(v), f"{v:g}") for v in nice_ticks(low, high, 4)],
        end_mean=y(curve[-1].random_mean),
    )


def share_segments(values: Sequence[float], width: float) -> list[tuple[float, float, int]]:
    """x, width and shade of a stacked strip of |values|."""
    whole = sum(abs(value) for value in values) or 1.0
    limit = max((abs(value) for value in values), default=0.0)
    found, x = [], 0.0
    for value in values:
        part = abs(value) / whole * width
        found.append((x, part, shade_of(value, limit) or 0))
        x += part
    return found
