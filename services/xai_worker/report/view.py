"""What the pages show, worked out before the templates run: colours, blocks of residues, bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.xai_worker.colours import diverging, hexadecimal
from services.xai_worker.explainers.stacker_parts import RELATIONS
from services.xai_worker.report.text import signed
from services.xai_worker.result import ChannelExplanation, Neighbour, ResidueExplanation, TopResidue

BLOCK_RESIDUES = 60
SHADES = 10  # of each sign
BAR_WIDTH = 420.0  # SVG units, for the whole axis
BAR_HEIGHT = 18
BAR_GAP = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One residue in one track. `shade` is -SHADES..SHADES, None where the model never saw it."""

    residue: str
    shade: int | None
    title: str
    top: bool

    @property
    def css(self) -> str:
        """The cell's classes in the style sheet."""
        name = "unseen" if self.shade is None else f"{'n' if self.shade < 0 else 'p'}{abs(self.shade)}"
        return f"{name} top" if self.top else name


@dataclass(frozen=True, slots=True)
class Line:
    """One track's part of one block."""

    label: str
    description: str
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Block:
    """Up to BLOCK_RESIDUES neighbouring residues in every track of a term."""

    first: int
    last: int
    ruler: str
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Track:
    """One (model, method) of one term."""

    label: str
    explanation: ResidueExplanation
    limit: float  # the value of the darkest shade

    @property
    def top(self) -> list[TopResidue]:
        """The residues that raise the score most."""
        return self.explanation.top


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a bar, in SVG units from the left edge."""

    relation: str
    x: float
    width: float
    title: str


@dataclass(frozen=True, slots=True)
class Bar:
    """What one channel adds."""

    channel: str
    y: int
    total: float
    segments: list[Segment]
    values: list[float]  # in the order of RELATIONS


@dataclass(frozen=True, slots=True)
class Chart:
    """The stacker's parts of one term as horizontal bars around zero."""

    explanation: ChannelExplanation
    bars: list[Bar]
    zero: float
    limit: float
    height: int
    note: str | None
    silent: list[Bar]  # channels that add nothing; drawn nowhere


def colour_css() -> str:
    """A class per shade: n10 (darkest blue) .. p0 (white) .. p10 (darkest orange)."""
    rules = []
    for shade in range(-SHADES, SHADES + 1):
        colour = hexadecimal(diverging(shade / SHADES))
        text = ";color:#fff" if abs(shade) >= SHADES - 2 else ""
        rules.append(f".{'n' if shade < 0 else 'p'}{abs(shade)}{{background:{colour};fill:{colour}{text}}}")
    return "\n".join(rules)


def track_of(explanation: ResidueExplanation) -> Track:
    """The scale is symmetric around 0, and each track's own: values of methods are not comparable."""
    limit = max((abs(value) for value in explanation.values if value is not None), default=0.0)
    return Track(f"{explanation.model} {explanation.method}", explanation, limit)


def shade_of(value: float | None, limit: float) -> int | None:
    """The shade of a value; the sign of the shade is the sign of the value."""
    if value is None:
        return None
    return 0 if limit == 0 else round(SHADES * value / limit)


def blocks_of(tracks: Sequence[Track]) -> Iterator[Block]:
    """Cut all tracks of one term into aligned blocks."""
    length = len(tracks[0].explanation.sequence)
    for start in range(0, length, BLOCK_RESIDUES):
        stop = min(start + BLOCK_RESIDUES, length)
        yield Block(start + 1, stop, ruler(start, stop), [_line(track, start, stop) for track in tracks])


def ruler(start: int, stop: int) -> str:
    """Residue numbers, each ending above its residue: every tenth."""
    marks = [" "] * (stop - start)
    for position in range(start + 10 - start % 10, stop + 1, 10):
        number = str(position)
        first = position - start - len(number)
        if first >= 0:
            marks[first : first + len(number)] = number
    return "".join(marks)


def _line(track: Track, start: int, stop: int) -> Line:
    explanation = track.explanation
    best = {item.position for item in track.top}
    cells = [
        Cell(residue, shade_of(value, track.limit), _title(residue, position, value), position in best)
        for position, (residue, value) in enumerate(
            zip(explanation.sequence[start:stop], explanation.values[start:stop], strict=True), start=start + 1
        )
    ]
    return Line(track.label, _description(track, start, stop), cells)


def _title(residue: str, position: int, value: float | None) -> str:
    return f"{residue}{position} " + ("not seen by the model" if value is None else signed(value))


def _description(track: Track, start: int, stop: int) -> str:
    explanation = track.explanation
    seen = [(value, i) for i, value in enumerate(explanation.values[start:stop], start=start) if value is not None]
    where = f"{track.label}, residues {start + 1} to {stop}"
    if not seen:
        return f"{where}: not seen by the model"
    (low, i), (high, j) = min(seen), max(seen)
    sequence = explanation.sequence
    return f"{where}: highest {sequence[j]}{j + 1} {signed(high, 3)}, lowest {sequence[i]}{i + 1} {signed(low, 3)}"


def chart_of(explanation: ChannelExplanation) -> Chart:
    """Lay out the bars: positive pieces to the right of zero, negative ones to the left."""
    channels = list(dict.fromkeys(part.channel for part in explanation.parts))
    value = {(part.channel, part.relation): part.value for part in explanation.parts}
    rows = {channel: [value.get((channel, relation), 0.0) for relation in RELATIONS] for channel in channels}
    reach = [max(sum(v for v in row if v > 0), -sum(v for v in row if v < 0)) for row in rows.values()]
    limit = max(reach, default=0.0) or 1.0
    zero, scale = BAR_WIDTH / 2, BAR_WIDTH / 2 / limit
    active = [channel for channel, row in rows.items() if any(row)]
    bars = [_bar(channel, rows[channel], index, zero, scale) for index, channel in enumerate(active)]
    silent = [_bar(channel, row, 0, zero, scale) for channel, row in rows.items() if channel not in active]
    return Chart(explanation, bars, zero, limit, len(bars) * (BAR_HEIGHT + BAR_GAP), _prior_note(bars), silent)


def _bar(channel: str, row: list[float], index: int, zero: float, scale: float) -> Bar:
    return Bar(channel, index * (BAR_HEIGHT + BAR_GAP), sum(row), _segments(channel, row, zero, scale), row)


def _segments(channel: str, row: Sequence[float], zero: float, scale: float) -> list[Segment]:
    left = right = zero
    found = []
    for relation, value in zip(RELATIONS, row, strict=True):
        width = abs(value) * scale
        if value < 0:
            left -= width
        found.append(
            Segment(relation, left if value < 0 else right, width, f"{channel}, {relation}: {signed(value, 3)}")
        )
        if value > 0:
            right += width
    return found


def _prior_note(bars: Sequence[Bar]) -> str | None:
    whole = sum(abs(bar.total) for bar in bars)
    known = sum(abs(bar.total) for bar in bars if bar.channel.startswith("goa:"))
    if whole == 0 or known / whole <= 0.5:
        return None
    return f"{100 * known / whole:.0f} % of this score rests on existing annotations (GOA), not on the sequence."


def alignment_text(neighbour: Neighbour, width: int = BLOCK_RESIDUES) -> str:
    """The alignment in blocks: query, a line of matches (| equal, * a carried site), neighbour; numbers are 1-based."""
    own = neighbour.alignment
    if own is None:
        return ""
    sites = {site.position for site in neighbour.sites}
    at, other = own.query_start, own.neighbour_start
    lines: list[str] = []
    for start in range(0, len(own.query), width):
        query, target = own.query[start : start + width], own.neighbour[start : start + width]
        first, second, marks = at, other, []
        for a, b in zip(query, target, strict=True):
            marks.append("*" if a != "-" and at in sites else "|" if a == b else " ")
            at, other = at + (a != "-"), other + (b != "-")
        lines += [f"{first:>6} {query} {at - 1}", f"       {''.join(marks)}", f"{second:>6} {target} {other - 1}", ""]
    return "\n".join(lines).rstrip()
