"""BED (GA4GH BED v1.0): 0-based start, half-open end; the residues that each explanation names as its top ones.

BED6 and four fields of our own. The score is an integer from 0 to 1000: the value as a share of the track's largest.
The name of a chromosome may hold only letters, digits and underscores; where a protein's id has others they
become underscores, and a comment line says the id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.xai_worker.exports.base import Explained, number

MAX_SCORE = 1000


def chromosome(protein: str) -> str:
    """The protein's id as BED allows it."""
    return re.sub(r"[^A-Za-z0-9_]", "_", protein)[:255]


class Bed:
    """One line per top residue."""

    name, what = "bed", "the top residues of each explanation, 0-based half-open"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """One file."""
        lines = [f"# protein {protein.protein}", "# fields: BED6, then term, model, method, value in logits"]
        chrom = chromosome(protein.protein)
        for track in protein.tracks:
            limit = track.limit or 1.0
            for item in track.explanation.top:
                score = round(MAX_SCORE * item.value / limit)
                place = f"{chrom}\t{item.position - 1}\t{item.position}\t{item.residue}{item.position}\t{score}\t."
                lines.append("\t".join((place, *track.key, number(item.value))))
        yield f"{protein.name}.bed", ("\n".join(lines) + "\n").encode()
