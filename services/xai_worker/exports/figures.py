"""Figures of all explanations of a term, a row per explanation and a cell per residue: SVG for print, PNG for slides.

Each row has its own colour scale, symmetric around 0, because values of different methods are not comparable.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from html import escape
from itertools import groupby

from PIL import Image

from services.xai_worker.colours import hexadecimal, of_value
from services.xai_worker.exports.base import Explained, Track, number
from services.xai_worker.naming import identifier

CELL, ROW, LABEL, TOP = 6, 22, 210, 34  # SVG units
PNG_CELL, PNG_ROW = 4, 24  # pixels


class Svg:
    """One figure per term."""

    name, what = "svg", "a figure per term, as vectors"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """A file per term."""
        for term, tracks in _by_term(protein):
            yield f"{protein.name}/{identifier(term)}.svg", _svg(protein, term, tracks).encode()


class Png:
    """One figure per term: PNG_CELL pixels per residue, PNG_ROW per explanation, rows in the order of the SVG."""

    name, what = "png", "a figure per term, as pixels"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """A file per term."""
        for term, tracks in _by_term(protein):
            image = Image.new("RGB", (len(protein.sequence), len(tracks)))
            image.putdata([of_value(value, track.limit) for track in tracks for value in track.explanation.values])
            size = (PNG_CELL * image.width, PNG_ROW * image.height)
            sink = io.BytesIO()
            image.resize(size, Image.Resampling.NEAREST).save(sink, "PNG")
            yield f"{protein.name}/{identifier(term)}.png", sink.getvalue()


def _by_term(protein: Explained) -> Iterator[tuple[str, list[Track]]]:
    ordered = sorted(protein.tracks, key=lambda track: track.key[0])
    for term, tracks in groupby(ordered, key=lambda track: track.key[0]):
        yield term, list(tracks)


def _svg(protein: Explained, term: str, tracks: list[Track]) -> str:
    width = LABEL + CELL * len(protein.sequence) + 12
    height = TOP + ROW * len(tracks) + 24
    title = f"{protein.protein}: {term} {tracks[0].explanation.term_name}"
    marks = "".join(
        f'<text x="{LABEL + CELL * (position - 0.5)}" y="{height - 6}" text-anchor="middle">{position}</text>'
        for position in (1, *range(50, len(protein.sequence) + 1, 50))
    )
    rows = "".join(_row(track, TOP + ROW * index) for index, track in enumerate(tracks))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, DejaVu Sans, sans-serif" font-size="11">\n<title>{escape(title)}</title>\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
        f'<text x="4" y="18" font-size="14" font-weight="600">{escape(title)}</text>\n{rows}{marks}\n</svg>\n'
    )


def _row(track: Track, y: int) -> str:
    term, model, method = track.key
    cells = "".join(
        f'<rect x="{LABEL + CELL * (position - 1)}" y="{y}" width="{CELL}" height="{ROW - 4}" '
        f'fill="{hexadecimal(of_value(value, track.limit))}" data-position="{position}" '
        f'data-value="{number(value)}"><title>{residue}{position} {value:+.4g}</title></rect>'
        for position, residue, value in track.values()
    )
    names = f'data-term="{escape(term)}" data-model="{escape(model)}" data-method="{escape(method)}"'
    return (
        f'<g {names}><text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(f"{model} {method}")}</text>'
        f"{cells}</g>\n"
    )
