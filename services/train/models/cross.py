"""Fits what the stacker sees of the other aspects: principal directions of their out-of-fold scores.

No label is read: like the vocabulary of the text, the directions are fitted once, on all rows of the fit.
Validation and test proteins take no part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import linalg

from shared.models.channels import CrossAspect, mean_scores
from shared.models.features import IntArray
from shared.nn.transforms import row_blocks

RELATIVE_RANK = 1e-7  # of the largest variance; smaller ones are rounding of float16


def fit_cross(
    level1: Mapping[str, npt.NDArray[np.floating]], rows: IntArray, columns: IntArray, components: int
) -> CrossAspect:
    """The `components` directions of the largest variance of the mean over models, in units of their spread.

    Where there are fewer, the rest are 0.

    Args:
        level1: model -> out-of-fold logits [protein, level-1 term].
        rows: the proteins of the fit.
        columns: the other aspects' terms among the level-1 terms.
        components: how many.
    """
    width = len(columns)
    total, products = np.zeros(width), np.zeros((width, width))
    for _, block in row_blocks(rows):
        part = mean_scores(level1, block, columns).astype(np.float64)
        total += part.sum(0)
        products += part.T @ part
    count = max(1, len(rows))
    mean = total / count
    directions = np.zeros((width, components), np.float32)
    kept = min(width, components)
    if kept and len(rows):
        covariance = products / count - np.outer(mean, mean)
        variance, vectors = linalg.eigh(covariance, subset_by_index=(width - kept, width - 1), overwrite_a=True)
        variance, vectors = variance[::-1], vectors[:, ::-1]
        real = variance > max(variance[0], 0.0) * RELATIVE_RANK
        # Eigenvectors have no sign of their own; a rule keeps refits alike.
        signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(kept)])
        directions[:, :kept][:, real] = (vectors * signs)[:, real] / np.sqrt(variance[real])
    return CrossAspect(columns, mean.astype(np.float32), directions)
