"""GFF3 (Sequence Ontology, gff3.md 1.26): 1-based, both ends inside; nine columns split by tabs.

Column 1 escapes everything outside `[a-zA-Z0-9.:^*$@!+_?-|]`; attribute values escape tab, newline, control
characters and `% ; = & ,`. The type is a Sequence Ontology term; an amino-acid position is a `polypeptide_region`.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from services.xai_worker.exports.base import Explained, number

TYPE = "polypeptide_region"  # SO:0000839
_SEQID = ".:^*$@!+_?-|"
_VALUE = " !\"#$'()*+-./:<>?@[\\]^_`{|}~"


class Gff3:
    """A feature per residue and track; the score is the value in logits."""

    name, what = "gff3", "features for genome and protein browsers, 1-based"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """One file."""
        seqid = quote(protein.protein, safe=_SEQID)
        lines = ["##gff-version 3", f"##sequence-region {seqid} 1 {len(protein.sequence)}"]
        for track in protein.tracks:
            term, model, method = track.key
            own = {"Ontology_term": term, "Note": track.explanation.term_name, "model": model, "method": method}
            fixed = ";".join(f"{name}={quote(value, safe=_VALUE)}" for name, value in own.items())
            lines += [
                f"{seqid}\tgowhy\t{TYPE}\t{position}\t{position}\t{number(value)}\t.\t.\t{fixed};residue={residue}"
                for position, residue, value in track.values()
            ]
        yield f"{protein.name}.gff3", ("\n".join(lines) + "\n").encode()
