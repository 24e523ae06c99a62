"""What models see of proteins: sequences, vectors per modality, taxa and homology hits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

MODALITIES = ("esm2", "t5", "text")


@dataclass(frozen=True, slots=True)
class Hits:
    """Homology hits as rows grouped by query: hits of query q are `indptr[q]:indptr[q + 1]`.

    `target` holds rows of the reference proteins (the train rows, or the bundle's reference rows);
    `bits` bit scores; `fident` fraction identical in [0, 1]; `qcov` and `tcov` covered fractions.
    """

    indptr: IntArray  # [queries + 1]
    target: IntArray  # [hits]
    bits: FloatArray
    fident: FloatArray
    qcov: FloatArray
    tcov: FloatArray

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, queries: int) -> Hits:
        """From columns query, target (rows), bits, fident, qcov, tcov, in any order."""
        ordered = frame.sort_values(["query", "bits", "target"], ascending=[True, False, True], kind="stable")
        counts = np.bincount(ordered["query"].to_numpy(np.int64), minlength=queries)
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(
            indptr,
            ordered["target"].to_numpy(np.int64),
            *(ordered[name].to_numpy(np.float32) for name in ("bits", "fident", "qcov", "tcov")),
        )

    def among(self, rows: IntArray) -> Hits:
        """The hits of the queries at `rows`, which are its queries 0, 1, ...; costs what these hits cost."""
        counts = self.indptr[rows + 1] - self.indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        chosen = np.repeat(self.indptr[rows] - indptr[:-1], counts) + np.arange(indptr[-1])
        arrays = (self.target, self.bits, self.fident, self.qcov, self.tcov)
        return Hits(indptr, *(array[chosen] for array in arrays))

    def queries(self) -> IntArray:
        """The query of each hit."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def weights(self, identity_power: float) -> FloatArray:
        """What each hit's vote is worth: bits * global identity ** `identity_power`.

        Global identity is about identical residues / length of the longer protein. Source of power 1:
        InterLabelGO+ (QuanEvans/InterLabelGO), bit score * nident / max(qlen, slen).
        """
        identity = self.fident * np.minimum(self.qcov, self.tcov)
        weights: FloatArray = (self.bits * identity ** np.float32(identity_power)).astype(np.float32)
        return weights

    def of(self, query: int) -> slice:
        """The slice of hits of one query row."""
        return slice(int(self.indptr[query]), int(self.indptr[query + 1]))


@dataclass(frozen=True, slots=True)
class Features:
    """Proteins as models see them; all members share the row order of `ids`.

    `dense[modality]` is [protein, dimension] (often a float16 memory map); an absent modality has
    zero columns. `taxa` is 0 where unknown. `hits` is None where no search was made.
    """

    ids: Sequence[str]
    sequences: Sequence[str]
    dense: Mapping[str, npt.NDArray[np.floating]]
    taxa: IntArray
    hits: Hits | None

    def __len__(self) -> int:
        return len(self.ids)
