"""Groups of proteins that are reported apart: by similarity to what was fitted on, and by what was known before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shared.models.features import Hits, IntArray

BoolArray = npt.NDArray[np.bool_]
BANDS: Mapping[str, tuple[float, float]] = {
    "no hit": (-1.0, 0.0),
    "below 30 %": (0.0, 0.3),
    "30 to 60 %": (0.3, 0.6),
    "60 to 90 %": (0.6, 0.9),
    "above 90 %": (0.9, 1.01),
}
BAND_EVALUE = 1e-3
KNOWLEDGE = {
    "NK": "nothing was known",
    "LK": "only other aspects were annotated",
    "PK": "the aspect was annotated",
}


def highest_identity(hits: Hits, lengths: IntArray, reference: BoolArray, residues: int) -> npt.NDArray[np.float64]:
    """Highest identity of each query with a protein that was fitted on, float64 [query]; -1 without a hit.

    A hit counts from E <= 0.001, with E = query length * residues searched * 2 ** -bits (Karlin & Altschul
    1990, doi:10.1073/pnas.87.6.2264): the search itself also keeps far weaker ones, which vote with little weight.

    Args:
        hits: of the queries; targets are train rows.
        lengths: of the queries, in residues.
        reference: [train row], whether it was fitted on.
        residues: of all searched proteins.
    """
    query = np.repeat(np.arange(len(lengths)), np.diff(hits.indptr))
    expected = lengths[query] * float(residues) * np.exp2(-hits.bits.astype(np.float64))
    kept = reference[hits.target] & (expected <= BAND_EVALUE)
    highest = np.full(len(lengths), -1.0)
    np.maximum.at(highest, query[kept], hits.fident[kept].astype(np.float64))
    return highest


def bands(identity: npt.NDArray[np.float64]) -> dict[str, BoolArray]:
    """Name of the band -> mask of its proteins; every protein is in one."""
    return {name: (identity >= low) & (identity < high) for name, (low, high) in BANDS.items()}


def knowledge(aspect: str, known: Sequence[frozenset[str]]) -> dict[str, BoolArray]:
    """NK, LK, PK -> mask of the proteins, from the aspects that were annotated before (CAFA's three kinds of target)."""
    here = np.array([aspect in aspects for aspects in known], bool)
    anywhere = np.array([bool(aspects) for aspects in known], bool)
    return {"NK": ~anywhere, "LK": anywhere & ~here, "PK": here}
