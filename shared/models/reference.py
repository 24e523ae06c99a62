"""Reference proteins with labels: what the homology vote, the KNN and the taxon prior count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.models.base import LOGIT_LIMIT
from shared.models.features import FloatArray, IntArray

ASPECT_COUNT = 3
KEPT_COUNTS = 1024  # taxa times folds; proteins that are scored block by block ask for the same ones again


@dataclass(frozen=True, slots=True)
class _Counted:
    """What a reference has counted for the folds that were last asked about; exact, so that it changes no result."""

    folds: IntArray | None  # [train row]
    own: IntArray | None  # [reference], theirs
    order: IntArray  # reference proteins by taxon
    ordered: IntArray  # their taxa
    priors: dict[int, FloatArray] = field(default_factory=dict)  # fold -> [term]
    taxa: dict[tuple[int, int], tuple[IntArray, IntArray]] = field(default_factory=dict)  # fold, taxon -> counts


@dataclass(frozen=True, slots=True)
class Reference:
    """Labelled reference proteins, in a row order of their own.

    `rows[i]` is the train row of reference protein i. In the pipeline hits point at train rows, and a
    fold is looked up by train row; whoever renumbers proteins (the bundle, whose hits point at its own
    reference FASTA) writes the new numbers into `rows`, and changes nothing else.
    """

    rows: IntArray  # [reference], ascending
    labels: sparse.csr_array  # 0/1 float32 [reference, term]
    annotated: npt.NDArray[np.bool_]  # [reference, aspect]
    aspects: npt.NDArray[np.int8]  # [term]
    priors: FloatArray  # [term], shares among the reference proteins annotated in the term's aspect
    taxa: IntArray  # [reference], 0 where unknown
    _kept: list[_Counted] = field(default_factory=list, init=False, repr=False, compare=False)  # at most one

    def positions(self, rows: IntArray) -> IntArray:
        """Where train rows are among the reference proteins; -1 where they are not."""
        if not len(self.rows):
            return np.full(len(rows), -1, np.int64)
        place = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        found: IntArray = np.where(self.rows[place] == rows, place, -1).astype(np.int64)
        return found

    def priors_without_fold(self, query_folds: IntArray, folds: IntArray) -> FloatArray:
        """Priors [query, term] of the reference proteins outside each query's fold; `folds` is by train row."""
        unique, which = np.unique(query_folds, return_inverse=True)
        priors = np.empty((len(unique), len(self.aspects)), np.float32)
        for place, fold in enumerate(unique.tolist()):
            priors[place] = self._fold_priors(fold, folds)
        return priors[which]

    def _fold_priors(self, fold: int, folds: IntArray) -> FloatArray:
        counted = self._counted(folds)
        if fold not in counted.priors:
            others = (folds[self.rows] != fold).astype(np.float64)
            voters = others @ self.annotated
            shares = (others @ self.labels) / np.maximum(voters[self.aspects], 1.0)
            counted.priors[fold] = shares.astype(np.float32)
        return counted.priors[fold]

    def taxon_priors(
        self, taxa: IntArray, weight: float, query_folds: IntArray | None = None, folds: IntArray | None = None
    ) -> FloatArray:
        """Each term's share in the query's own taxon, pulled towards its share in all; float32 [query, term].

        share = (reference proteins of the taxon that have the term + weight * prior) / (reference proteins of
        the taxon annotated in the term's aspect + weight); the prior itself where the taxon is unknown (0).

        Args:
            taxa: [query].
            weight: how many proteins the prior counts as.
            query_folds: [query]; with `folds` ([train row]), reference proteins of the query's fold are left out.
            folds: see `query_folds`.
        """
        left_out = np.full(len(taxa), -1, np.int64) if query_folds is None else query_folds
        pairs, which = np.unique(np.stack([left_out, taxa]), axis=1, return_inverse=True)
        result = np.empty((pairs.shape[1], len(self.aspects)), np.float32)
        for fold in np.unique(pairs[0]).tolist():
            base = self.priors if folds is None else self._fold_priors(fold, folds)
            for place in np.flatnonzero(pairs[0] == fold):
                having, known = self._taxon_counts(int(pairs[1, place]) or -1, fold, folds)
                result[place] = (having + weight * base) / (known + weight)
        return result[which.ravel()]

    def _taxon_counts(self, taxon: int, fold: int, folds: IntArray | None) -> tuple[IntArray, IntArray]:
        """Reference proteins of a taxon, outside the fold, that have each term, and that are annotated in its aspect."""
        counted = self._counted(folds)
        found = counted.taxa.get((fold, taxon))
        if found is None:
            place = np.searchsorted(counted.ordered, [taxon, taxon + 1])
            members = counted.order[place[0] : place[1]]
            members = members if counted.own is None else members[counted.own[members] != fold]
            having = np.bincount(self.labels[members].indices, minlength=len(self.aspects))
            if len(counted.taxa) >= KEPT_COUNTS:
                counted.taxa.clear()
            found = counted.taxa[fold, taxon] = having, self.annotated[members].sum(0)[self.aspects]
        return found

    def _counted(self, folds: IntArray | None) -> _Counted:
        kept = self._kept[0] if self._kept else None
        if kept is None or kept.folds is not folds:
            order = np.argsort(self.taxa, kind="stable") if kept is None else kept.order
            kept = _Counted(folds, None if folds is None else folds[self.rows], order, self.taxa[order])
            self._kept[:] = [kept]
        return kept

    def vote(
        self, weights: sparse.csr_array, priors: FloatArray | None = None, prior_weight: float = 0.0
    ) -> FloatArray:
        """Logits [query, term] of a weighted vote; `weights` is float32 [query, reference].

        score(term) = (weight of the voters that have the term + prior_weight * prior) / (weight of the
        voters annotated in the term's aspect + prior_weight). Without any such voter it is the prior.
        `priors` [query, term] replace the reference's own.
        """
        base = self.priors if priors is None else priors
        votes = (weights @ self.labels).toarray()
        voters = (weights @ self.annotated.astype(np.float32))[:, self.aspects]
        share = (votes + np.float32(prior_weight) * base) / np.maximum(
            voters + np.float32(prior_weight), np.finfo(np.float32).tiny
        )
        scores: FloatArray = np.where(voters > 0, share, base).astype(np.float32, copy=False)
        np.minimum(scores, 1, out=scores)  # a rounding above 1 would have no logarithm
        with np.errstate(divide="ignore"):  # the logits of 0 and 1 are beyond the limit
            logits: FloatArray = np.log(scores / (1 - scores))
        return np.clip(logits, -LOGIT_LIMIT, LOGIT_LIMIT, out=logits)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array by name, all starting with `reference.`."""
        return {
            "reference.rows": self.rows,
            "reference.label_indptr": self.labels.indptr.astype(np.int64),
            "reference.label_indices": self.labels.indices.astype(np.int32),
            "reference.annotated": self.annotated,
            "reference.aspects": self.aspects,
            "reference.priors": self.priors,
            "reference.taxa": self.taxa,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `arrays`."""
        indices = arrays["reference.label_indices"]
        shape = (len(arrays["reference.rows"]), len(arrays["reference.aspects"]))
        labels = sparse.csr_array(
            (np.ones(len(indices), np.float32), indices, arrays["reference.label_indptr"]), shape=shape
        )
        return cls(
            arrays["reference.rows"],
            labels,
            arrays["reference.annotated"],
            arrays["reference.aspects"],
            arrays["reference.priors"],
            arrays["reference.taxa"],
        )
