"""Labels as a fit sees them: which terms it may learn, their priors, and the masked loss.

A protein without any term of an aspect is not a negative example of that aspect: nobody looked. Its
columns of the aspect enter no loss and no prior.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

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
        block = self.labels[rows].tocoo()
        device = logits.device
        true = tuple(torch.from_numpy(place.astype(np.int64)).to(device) for place in (block.row, block.col))
        annotated = self.annotated[torch.from_numpy(rows).to(device)]
        # One product with a number that is 0 or the weight, for each entry.
        spread = functional.one_hot(self.aspects, annotated.shape[1]).T * self.weights
        with torch.autocast(device.type, enabled=False):
            known = annotated.to(spread.dtype) @ spread
        total: torch.Tensor = _CrossEntropy.apply(logits, known, true)  # type: ignore[no-untyped-call]
        return total / known.sum().clamp_min(1e-12)


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
