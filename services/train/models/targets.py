"""Labels as a fit sees them: which terms it may learn, their priors, and the masked loss.

A protein without any term of an aspect is not a negative example of that aspect: nobody looked. Its
columns of the aspect enter no loss and no prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch.nn import functional

from services.train.models.base import TrainingData
from shared.models.base import logit
from shared.models.features import FloatArray, IntArray


def known_labels(data: TrainingData, rows: IntArray) -> sparse.csr_array:
    """Labels of `rows` in the aspects that they are annotated in, float32 CSR [len(rows), term]."""
    block = data.labels[rows].tocoo()
    known = data.annotated[rows[block.row], data.aspects[block.col]]
    ones = np.ones(int(known.sum()), np.float32)
    return sparse.csr_array((ones, (block.row[known], block.col[known])), shape=block.shape)


def positives(data: TrainingData, rows: IntArray) -> IntArray:
    """Proteins among `rows` that have each term, int64 [term]."""
    counts: IntArray = np.bincount(known_labels(data, rows).indices, minlength=len(data.terms)).astype(np.int64)
    return counts


def prior_logits(data: TrainingData, rows: IntArray) -> FloatArray:
    """Logit of each term's share among the rows annotated in its aspect; float32 [term]."""
    annotated = data.annotated[rows].sum(0)[data.aspects]
    return logit(positives(data, rows) / np.maximum(annotated, 1))


def qualified_terms(data: TrainingData, rows: IntArray, min_positives: int) -> npt.NDArray[np.bool_]:
    """Which terms have enough positives among `rows` to be fitted; the others keep their prior."""
    enough: npt.NDArray[np.bool_] = positives(data, rows) >= min_positives
    return enough


def learnable_terms(data: TrainingData, rows: IntArray, min_positives: int) -> npt.NDArray[np.bool_]:
    """Qualified terms that also have a negative: an aspect's root is in every annotated protein, so its prior says it all."""
    annotated = data.annotated[rows].sum(0)[data.aspects]
    learnable: npt.NDArray[np.bool_] = qualified_terms(data, rows, min_positives) & (positives(data, rows) < annotated)
    return learnable


@dataclass(frozen=True, slots=True)
class MaskedLoss:
    """Binary cross-entropy with logits, averaged over the entries that are known.

    An entry (protein, term) counts with the term's weight where the protein is annotated in the
    term's aspect and the term is learnable, else with 0.
    """

    labels: sparse.csr_array
    annotated: torch.Tensor  # bool [train protein, 3]
    aspects: torch.Tensor  # int64 [term]
    weights: torch.Tensor  # float32 [term], 0 where not learnable

    @classmethod
    def of(cls, data: TrainingData, rows: IntArray, *, weights: FloatArray, min_positives: int, device: str) -> Self:
        """Build from what `rows` have; `weights` are the class weights [term]."""
        kept = np.where(learnable_terms(data, rows, min_positives), weights, 0.0).astype(np.float32)
        return cls(
            labels=data.labels,
            annotated=torch.from_numpy(data.annotated).to(device),
            aspects=torch.from_numpy(data.aspects.astype(np.int64)).to(device),
            weights=torch.from_numpy(kept).to(device),
        )

    def __call__(self, logits: torch.Tensor, rows: IntArray) -> torch.Tensor:
        """Mean loss of `logits` [len(rows), term] against the labels of `rows`; 0 where nothing is known."""
        logits = logits.float()
        block = self.labels[rows].tocoo()
        target = torch.zeros_like(logits)
        target[torch.from_numpy(block.row.astype(np.int64)), torch.from_numpy(block.col.astype(np.int64))] = 1.0
        known = self.annotated[torch.from_numpy(rows).to(logits.device)][:, self.aspects] * self.weights
        losses = functional.binary_cross_entropy_with_logits(logits, target, weight=known, reduction="sum")
        return losses / known.sum().clamp_min(1e-12)
