"""Labels as a fit sees them: which terms it may learn, their priors, and the masked loss.

A protein without any term of an aspect is not a negative example of that aspect: nobody looked. Its
columns of the aspect enter no loss and no prior. With conditional targets a term is also unknown of a
protein that has none of the term's parents: what is learnt is P(term | one of its parents), and
`shared.nn.term_chain.TermChain` makes P(term) of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch.nn import functional

from services.train.models.base import Targets, TrainingData
from shared.models.base import logit
from shared.models.features import FloatArray, IntArray
from shared.nn.term_graph import Edge
from shared.nn.transforms import row_blocks


def known_labels(data: TrainingData, rows: IntArray) -> sparse.csr_array:
    """Labels of `rows` in the aspects that they are annotated in, float32 CSR [len(rows), term]."""
    parts = [_known_labels(data, block) for _, block in row_blocks(rows)]
    return sparse.csr_array(sparse.vstack(parts, format="csr")) if parts else data.labels[rows]


def _known_labels(data: TrainingData, rows: IntArray) -> sparse.csr_array:
    block = data.labels[rows].tocoo()
    known = data.annotated[rows[block.row], data.aspects[block.col]]
    ones = np.ones(int(known.sum()), np.float32)
    return sparse.csr_array((ones, (block.row[known], block.col[known])), shape=block.shape)


def positives(data: TrainingData, rows: IntArray) -> IntArray:
    """Proteins among `rows` that have each term, int64 [term]."""
    counts: IntArray = np.zeros(len(data.terms), np.int64)
    for _, block in row_blocks(rows):
        counts += np.bincount(_known_labels(data, block).indices, minlength=len(data.terms))
    return counts


def with_parent(labels: sparse.csr_array, edges: Sequence[Edge], columns: IntArray | None = None) -> sparse.csr_array:
    """Which proteins have a parent of a term: CSR [protein, term or one of `columns`], above 0 where they do.

    A term without parents asks for none: its column is empty, and the caller's `orphans` tell it apart.
    """
    pairs = np.asarray(edges, np.int64).reshape(-1, 2)
    shape = (labels.shape[1], labels.shape[1])
    below = sparse.csr_array((np.ones(len(pairs), np.float32), (pairs[:, 1], pairs[:, 0])), shape=shape)
    return sparse.csr_array(labels @ (below if columns is None else below[:, columns]))


def orphans(edges: Sequence[Edge], terms: int) -> npt.NDArray[np.bool_]:
    """[term], True where no edge leads to a parent."""
    alone = np.ones(terms, np.bool_)
    alone[np.asarray(edges, np.int64).reshape(-1, 2)[:, 0]] = False
    return alone


@dataclass(frozen=True, slots=True)
class Entries:
    """Which (protein, term) entries a fit may read: the one mask of every loss, prior and count.

    `edges` are (child, parent) positions for conditional targets, None for raw ones.
    """

    data: TrainingData
    edges: tuple[Edge, ...] | None = None

    @classmethod
    def of(cls, data: TrainingData, targets: Targets) -> Self:
        """The mask of one kind of targets; a term hangs on its nearest ancestors among the terms."""
        return cls(data, tuple(data.ontology.subset_edges(data.terms)) if targets == "conditional" else None)

    def known(self, rows: IntArray, columns: IntArray | None = None) -> npt.NDArray[np.bool_]:
        """[len(rows), term or one of `columns`]."""
        chosen = np.arange(len(self.data.terms)) if columns is None else columns
        known: npt.NDArray[np.bool_] = self.data.annotated[rows][:, self.data.aspects[chosen]]
        if self.edges is not None:
            parent = with_parent(self.data.labels[rows], self.edges, columns).toarray() > 0
            known &= parent | orphans(self.edges, len(self.data.terms))[chosen]
        return known

    def counts(self, rows: IntArray) -> IntArray:
        """Known entries of each term among `rows`, int64 [term]."""
        annotated: IntArray = self.data.annotated[rows].sum(0, dtype=np.int64)[self.data.aspects]
        if self.edges is None:
            return annotated
        parent = with_parent(known_labels(self.data, rows), self.edges)
        having = np.bincount(parent.indices, minlength=len(self.data.terms)).astype(np.int64)
        return np.where(orphans(self.edges, len(self.data.terms)), annotated, having)


def prior_logits(data: TrainingData, rows: IntArray, entries: Entries | None = None) -> FloatArray:
    """Logit of each term's share among the known entries of `rows`; float32 [term]."""
    return logit(positives(data, rows) / np.maximum((entries or Entries(data)).counts(rows), 1))


def qualified_terms(data: TrainingData, rows: IntArray, min_positives: int) -> npt.NDArray[np.bool_]:
    """Which terms have enough positives among `rows` to be fitted; the others keep their prior."""
    enough: npt.NDArray[np.bool_] = positives(data, rows) >= min_positives
    return enough


def learnable_terms(
    data: TrainingData, rows: IntArray, min_positives: int, entries: Entries | None = None
) -> npt.NDArray[np.bool_]:
    """Qualified terms that also have a negative: an aspect's root is in every annotated protein, so its prior says it all."""
    known = (entries or Entries(data)).counts(rows)
    learnable: npt.NDArray[np.bool_] = qualified_terms(data, rows, min_positives) & (positives(data, rows) < known)
    return learnable


@dataclass(frozen=True, slots=True)
class MaskedLoss:
    """Binary cross-entropy with logits, averaged over the entries that are known.

    An entry (protein, term) counts with the term's weight where it is known (`Entries`) and the term is
    learnable, else with 0.
    """

    entries: Entries
    annotated: torch.Tensor  # bool [train protein, 3]
    aspects: torch.Tensor  # int64 [term]
    weights: torch.Tensor  # float32 [term], 0 where not learnable

    @classmethod
    def of(cls, entries: Entries, rows: IntArray, *, weights: FloatArray, min_positives: int, device: str) -> Self:
        """Build from what `rows` have; `weights` are the class weights [term]."""
        kept = np.where(learnable_terms(entries.data, rows, min_positives, entries), weights, 0.0).astype(np.float32)
        return cls(
            entries,
            annotated=torch.from_numpy(entries.data.annotated).to(device),
            aspects=torch.from_numpy(entries.data.aspects.astype(np.int64)).to(device),
            weights=torch.from_numpy(kept).to(device),
        )

    def __call__(self, logits: torch.Tensor, rows: IntArray) -> torch.Tensor:
        """Mean loss of `logits` [len(rows), term] against the labels of `rows`; 0 where nothing is known."""
        block = self.entries.data.labels[rows].tocoo()
        device = logits.device
        true = tuple(torch.from_numpy(place.astype(np.int64)).to(device) for place in (block.row, block.col))
        known = self._known(rows, device)
        total: torch.Tensor = _CrossEntropy.apply(logits, known, true)  # type: ignore[no-untyped-call]
        return total / known.sum().clamp_min(1e-12)

    def _known(self, rows: IntArray, device: torch.device) -> torch.Tensor:
        """The weight of each entry, 0 where it is not known; float32 [len(rows), term]."""
        if self.entries.edges is not None:
            return torch.from_numpy(self.entries.known(rows)).to(device) * self.weights
        # One product with a number that is 0 or the weight, for each entry.
        annotated = self.annotated[torch.from_numpy(rows).to(device)]
        spread = functional.one_hot(self.aspects, annotated.shape[1]).T * self.weights
        with torch.autocast(device.type, enabled=False):
            return annotated.to(spread.dtype) @ spread


class _CrossEntropy(torch.autograd.Function):
    """Sum over entries of weight * (softplus(x) - x * label), labels given by the places of ones.

    As torch's binary cross-entropy with logits, in fewer passes: no dense labels, and a gradient of two steps.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, weight: torch.Tensor, true: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        x = logits.float()
        ctx.save_for_backward(logits, weight, *true)
        positive = weight[true]
        total: torch.Tensor = functional.softplus(x).mul_(weight).sum() - (x[true] * positive).sum()
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, weight, *true = ctx.saved_tensors
        gradient = torch.sigmoid(logits.float()).mul_(weight)
        gradient[tuple(true)] -= weight[tuple(true)]  # each place once: labels are a set
        return gradient.mul_(gradients[0]).to(logits.dtype), None, None
