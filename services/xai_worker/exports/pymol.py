"""PyMOL script (.pml), one per explanation: the values go into the B-factor column, which `spectrum` colours.

In an AlphaFold model that column holds the model's confidence; the script works on a copy, so that the loaded
object keeps it. Residue numbers as in the ChimeraX export. Values are set through one dictionary in a python block.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.xai_worker.exports.base import Explained, Track, number
from services.xai_worker.structure import place_of


class PyMol:
    """Load the structure, then run `@FILE`."""

    name, what = "pymol", "scripts for PyMOL, one per explanation"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """A script per explanation."""
        for track in protein.tracks:
            yield f"{protein.name}/{track.attribute}.pml", _script(protein, track).encode()


def _script(protein: Explained, track: Track) -> str:
    copy = track.attribute
    lines = [
        f"# {protein.protein}, {track.label}: what each residue adds to the score, in logits",
        "# The first loaded object is copied: its own B-factors stay.",
        "python",
        "from pymol import cmd",
        f"cmd.create({copy!r}, cmd.get_object_list()[0])",
        "python end",
        f"alter {copy}, b=0",
    ]
    for position, _, value in track.values():
        place = place_of(protein.structure, position)
        if place is not None:
            number_in = f"{place.number}{place.insertion}".replace("-", "\\-")
            chain = f" and chain {place.chain}" if place.chain else ""
            lines.append(f"alter {copy}{chain} and resi {number_in}, b={number(value)}")
    limit = number(track.limit)
    lines += [
        "hide everything",
        f"show cartoon, {copy}",
        f"spectrum b, blue_white_orange, {copy}, minimum=-{limit}, maximum={limit}",
    ]
    return "\n".join(lines) + "\n"
