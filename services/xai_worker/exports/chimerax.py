"""ChimeraX attribute assignment file (.defattr): control lines, then TAB, atom specification, TAB, value.

An attribute's name has letters, digits and underscores and no digit first. Residue numbers are the structure's
own where one was given, else positions in the sequence of chain A. Use it as
`open model.cif; open ACC.defattr; color byattribute gowhy_GO_0005524_cnn_occlusion`.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.xai_worker.exports.base import Explained, number
from services.xai_worker.structure import place_of


class ChimeraX:
    """One attribute per explanation."""

    name, what = "chimerax", "residue attributes for ChimeraX"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """One file of all attributes."""
        lines = [f"# {protein.protein}: what each residue adds to a GO term's score, in logits"]
        for track in protein.tracks:
            lines += [f"attribute: {track.attribute}", "match mode: any", "recipient: residues"]
            for position, _, value in track.values():
                place = place_of(protein.structure, position)
                if place is not None:
                    chain = f"/{place.chain}" if place.chain else ""
                    lines.append(f"\t{chain}:{place.number}{place.insertion}\t{number(value)}")
        yield f"{protein.name}.defattr", ("\n".join(lines) + "\n").encode()
