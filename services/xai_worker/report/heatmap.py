"""The mutation table as a picture: a column per residue, a row per substitution."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from services.xai_worker.colours import UNSEEN, of_value
from services.xai_worker.exports import MutationTable

ALPHABET = "GAVLIMFWYPCSTNQHKRDE"  # small, aliphatic, aromatic, polar, charged
SAME = (0x5B, 0x65, 0x75)  # the residue itself
QUANTILE = 0.995  # of |value|: one extreme cell must not make the rest white


@dataclass(frozen=True, slots=True)
class HeatMap:
    """`picture` is a data URI, one pixel a cell; `values` [row][column], None where not scanned."""

    model: str
    method: str
    label: str
    picture: str
    alphabet: str
    length: int
    limit: float
    values: list[list[float | None]]
    partial: bool  # some positions were not scanned


def heatmap_of(table: MutationTable, sequence: str) -> HeatMap:
    """Draw one table; values beyond the limit are drawn in the last colour."""
    place = {letter: row for row, letter in enumerate(ALPHABET)}
    values: list[list[float | None]] = [[None] * len(sequence) for _ in ALPHABET]
    for position, _, substitution, value in table.rows:
        if substitution in place and 1 <= position <= len(sequence):
            values[place[substitution]][position - 1] = value
    sizes = sorted(abs(value) for row in values for value in row if value is not None)
    limit = sizes[min(len(sizes) - 1, int(QUANTILE * len(sizes)))] if sizes else 0.0
    limit = limit or (sizes[-1] if sizes else 0.0)
    scanned = {position - 1 for position, *_ in table.rows}
    image = Image.new("RGB", (len(sequence), len(ALPHABET)), UNSEEN)
    image.putdata(
        [
            SAME if letter == sequence[column] and column in scanned else of_value(value, limit)
            for letter, row in zip(ALPHABET, values, strict=True)
            for column, value in enumerate(row)
        ]
    )
    sink = io.BytesIO()
    image.save(sink, "PNG", optimize=True)
    picture = "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
    label = f"{table.model} {table.method}"
    return HeatMap(
        table.model, table.method, label, picture, ALPHABET, len(sequence), limit, values, len(scanned) < len(sequence)
    )
