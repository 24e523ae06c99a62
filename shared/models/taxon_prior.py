"""Taxon prior: how often a term is found among the annotated proteins of the same species."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from shared.models.base import logit
from shared.models.features import Features, FloatArray, IntArray
from shared.models.reference import Reference
from shared.nn.transforms import row_blocks


class TaxonPrior:
    """Shares of the terms in a protein's taxon, pulled towards the shares in all; see `Reference.taxon_priors`."""

    kind: ClassVar[str] = "taxon"
    is_torch: ClassVar[bool] = False

    def __init__(self, reference: Reference, terms: tuple[str, ...], *, prior_proteins: float) -> None:
        self.reference, self.terms, self.prior_proteins = reference, terms, prior_proteins

    def logits(self, features: Features, rows: IntArray) -> FloatArray:
        """Logits [len(rows), term]; every reference protein of the taxon counts."""
        return self._logits(features, rows, None)

    def out_of_fold_logits(self, features: Features, rows: IntArray, folds: IntArray) -> FloatArray:
        """As `logits`, without the proteins of the query's own fold."""
        return self._logits(features, rows, folds)

    def _logits(self, features: Features, rows: IntArray, folds: IntArray | None) -> FloatArray:
        scores = np.empty((len(rows), len(self.terms)), np.float32)
        for place, block in row_blocks(rows):
            own = None if folds is None else folds[block]
            scores[place] = logit(self.reference.taxon_priors(features.taxa[block], self.prior_proteins, own, folds))
        return scores

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The reference's labels, taxa and priors."""
        return self.reference.arrays()

    def architecture(self) -> dict[str, Any]:
        """Terms and the strength of the pull."""
        return {"terms": list(self.terms), "prior_proteins": self.prior_proteins}

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from plain values."""
        terms, strength = tuple(architecture["terms"]), float(architecture["prior_proteins"])
        return cls(Reference.restore(arrays), terms, prior_proteins=strength)
