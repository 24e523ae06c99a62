"""UniProt-features JSON, as the EBI Proteins API's `/features/{accession}` answers and ProtVista reads.

`begin` and `end` are texts, 1-based, both ends inside. Evidence codes are ECO terms; what a model computed is
`ECO:0000256`, match to sequence model evidence used in automatic assertion.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.xai_worker.exports.base import Explained
from shared.digests import canonical_json

EVIDENCE = "ECO:0000256"


class UniProtFeatures:
    """A feature per residue and explanation."""

    name, what = "uniprot", "features JSON as UniProt and ProtVista know it, 1-based"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """One file."""
        features = [
            {
                "type": "GOWHY_RESIDUE",
                "category": "GOWHY",
                "begin": str(position),
                "end": str(position),
                "description": f"{track.label}: {residue}{position} {value:+.6g} logits, {track.explanation.term_name}",
                "evidences": [{"code": EVIDENCE}],
                "gowhy": {"term": term, "model": model, "method": method, "residue": residue, "value": value},
            }
            for track in protein.tracks
            for term, model, method in (track.key,)
            for position, residue, value in track.values()
        ]
        document = {"accession": protein.protein, "sequence": protein.sequence, "features": features}
        yield f"{protein.name}.features.json", canonical_json(document) + b"\n"
