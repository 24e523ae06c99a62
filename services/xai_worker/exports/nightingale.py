"""JSON for the nightingale elements (EBI), positions 1-based.

`linegraph` is the data of nightingale-linegraph-track, `heatmap` that of nightingale-sequence-heatmap, a row per explanation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from services.xai_worker.exports.base import Explained, Track
from shared.digests import canonical_json

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")  # Okabe and Ito


def linegraph(tracks: list[Track]) -> list[dict[str, Any]]:
    """One line per explanation."""
    return [
        {
            "name": track.label,
            "range": [-track.limit, track.limit],
            "color": COLOURS[number % len(COLOURS)],
            "values": [{"position": position, "value": value} for position, _, value in track.values()],
        }
        for number, track in enumerate(tracks)
    ]


class Nightingale:
    """Lines and a heat map."""

    name, what = "nightingale", "data for nightingale-linegraph-track and nightingale-sequence-heatmap, 1-based"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """One file."""
        cells = [
            {"xValue": position, "yValue": track.label, "score": value}
            for track in protein.tracks
            for position, _, value in track.values()
        ]
        document = {
            "protein": protein.protein,
            "sequence": protein.sequence,
            "linegraph": linegraph(protein.tracks),
            "heatmap": cells,
        }
        yield f"{protein.name}.nightingale.json", canonical_json(document) + b"\n"
