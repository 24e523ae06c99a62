"""bedGraph (UCSC): a track line, then chromosome, 0-based start, half-open end, value; residues not seen have no line."""

from __future__ import annotations

from collections.abc import Iterator

from services.xai_worker.exports.base import Explained, number
from services.xai_worker.exports.bed import chromosome


class BedGraph:
    """One track per explanation."""

    name, what = "bedgraph", "a value per residue and explanation, 0-based half-open"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """One file of all tracks."""
        chrom = chromosome(protein.protein)
        lines = [f"# protein {protein.protein}"]
        for track in protein.tracks:
            name = _quoted(track.label)
            about = _quoted(f"{track.explanation.term_name}, logits")
            lines.append(f"track type=bedGraph name={name} description={about} color=161,69,0 altColor=31,78,156")
            lines += [f"{chrom}\t{position - 1}\t{position}\t{number(value)}" for position, _, value in track.values()]
        yield f"{protein.name}.bedgraph", ("\n".join(lines) + "\n").encode()


def _quoted(text: str) -> str:
    """Track lines know no escapes: a quotation mark or a line's end would break them."""
    return '"' + "".join("'" if char == '"' else char if char.isprintable() else " " for char in text) + '"'
