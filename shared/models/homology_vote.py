"""Homology vote: proteins that a sequence search found vote with their bit scores.

score(term) = (weights of the hits that have the term + prior weight * prior) / (weights of the hits that
are annotated in the term's aspect + prior weight), weight = bit score * global identity ** power; without
prior and power, the score of the CAFA-3 re-evaluation by Zhang and Freddolino (PMC11262835). The prior is
the term's share in the protein's own taxon, so that weak hits move a score by what they are worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.errors import MissingInput
from shared.models.features import Features, FloatArray, Hits, IntArray
from shared.models.reference import Reference
from shared.nn.transforms import row_blocks

OPTIONS = ("identity_power", "prior_weight", "taxon_weight")


class HomologyVote:
    """The vote over one reference. A protein without a useful hit gets its taxon's priors."""

    kind: ClassVar[str] = "homology"
    is_torch: ClassVar[bool] = False

    def __init__(
        self,
        reference: Reference,
        terms: tuple[str, ...],
        *,
        identity_power: float,
        prior_weight: float,
        taxon_weight: float,
    ) -> None:
        self.reference, self.terms = reference, terms
        self.identity_power, self.prior_weight, self.taxon_weight = identity_power, prior_weight, taxon_weight

    def logits(self, features: Features, rows: IntArray) -> FloatArray:
        """Logits [len(rows), term]; every reference protein among the hits votes."""
        return self._logits(features, rows, None)

    def out_of_fold_logits(self, features: Features, rows: IntArray, folds: IntArray) -> FloatArray:
        """As `logits`, without the votes of the query's own fold."""
        return self._logits(features, rows, folds)

    def weights(self, hits: Hits, rows: IntArray, folds: IntArray | None = None) -> sparse.csr_array:
        """Votes float32 [len(rows), reference]; hits outside the reference, or of the query's fold, have none."""
        own = hits.among(rows)
        query, position = own.queries(), self.reference.positions(own.target)
        keep = position >= 0
        if folds is not None:
            keep &= folds[rows[query]] != folds[own.target]
        weight = own.weights(self.identity_power)
        shape = (len(rows), len(self.reference.rows))
        return sparse.csr_array((weight[keep].astype(np.float32), (query[keep], position[keep])), shape=shape)

    def _logits(self, features: Features, rows: IntArray, folds: IntArray | None) -> FloatArray:
        if features.hits is None:
            raise MissingInput(
                "no homology search was made for these proteins",
                where="the homology vote",
                remedy="Search them against the reference first",
            )
        scores = np.empty((len(rows), len(self.terms)), np.float32)
        for place, block in row_blocks(rows):
            own = None if folds is None else folds[block]
            priors = self.reference.taxon_priors(features.taxa[block], self.taxon_weight, own, folds)
            scores[place] = self.reference.vote(self.weights(features.hits, block, folds), priors, self.prior_weight)
        return scores

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The reference's labels and priors."""
        return self.reference.arrays()

    def architecture(self) -> dict[str, Any]:
        """Terms and the options of the vote."""
        return {"terms": list(self.terms), **{name: getattr(self, name) for name in OPTIONS}}

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from plain values."""
        options = {name: float(architecture[name]) for name in OPTIONS}
        return cls(Reference.restore(arrays), tuple(architecture["terms"]), **options)
