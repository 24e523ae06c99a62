"""How much each term counts in the loss of a gradient-trained model, by registry name.

Every scheme has mean 1 over the terms, so that a change of scheme is no change of the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy import sparse

FloatArray = npt.NDArray[np.float32]
Weights = Callable[[sparse.csr_array, FloatArray], FloatArray]

# Shares of the mean weight: a term without information is still fitted, a rare one does not drown the others.
LEAST, MOST = 0.1, 10.0


def equal(labels: sparse.csr_array, information: FloatArray) -> FloatArray:  # noqa: ARG001 - one signature for all
    """Every term counts the same."""
    return np.ones(labels.shape[1], np.float32)


def by_information(labels: sparse.csr_array, information: FloatArray) -> FloatArray:  # noqa: ARG001
    """Proportional to information accretion, as the weighted F-measure counts terms."""
    return _mean_one(np.nan_to_num(np.asarray(information, np.float64)))


def balanced(labels: sparse.csr_array, information: FloatArray) -> FloatArray:  # noqa: ARG001
    """Inverse to the number of positives, so that rare terms are not drowned by frequent ones."""
    positives = np.bincount(labels.indices[labels.data != 0], minlength=labels.shape[1])
    return _mean_one(1.0 / np.maximum(1, positives))


def _mean_one(raw: npt.NDArray[np.float64]) -> FloatArray:
    if not raw.size or not raw.sum() > 0:
        return np.ones(raw.shape, np.float32)
    limited = np.clip(raw / raw.mean(), LEAST, MOST)
    weights: FloatArray = (limited / limited.mean()).astype(np.float32)
    return weights


WEIGHTS: Mapping[str, Weights] = {"none": equal, "ia": by_information, "balanced": balanced}
"""Name in `level1.class_weight` -> function of 0/1 labels [protein, term] and information [term] (bits)."""
