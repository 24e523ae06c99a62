"""What predicts: the interface of a fitted level-1 model, shared by train and by whoever loads a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from shared.models.features import Features, FloatArray, IntArray

LOGIT_LIMIT = 9.21  # logit(0.9999): votes of exactly 0 or 1 stay finite


@runtime_checkable
class Level1Model(Protocol):
    """One fitted model (one fold's, or the one reference of a vote). Columns follow its `terms`."""

    kind: ClassVar[str]  # key in shared.models.MEMBERS
    is_torch: ClassVar[bool]  # its arrays live in model.pth, else in model_members.npz
    terms: tuple[str, ...]

    def logits(self, features: Features, rows: IntArray) -> FloatArray:
        """Logits [len(rows), len(terms)] of the proteins at `rows`."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every fitted array by name; with `architecture` enough to rebuild the model."""
        ...

    def architecture(self) -> dict[str, Any]:
        """Plain JSON values: sizes, options, terms."""
        ...

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild a fitted model; the inverse of `architecture` and `arrays`."""
        ...


@runtime_checkable
class VoteModel(Level1Model, Protocol):
    """A level-1 model whose score is a vote of reference proteins; fitted once, on all fit rows."""

    def out_of_fold_logits(self, features: Features, rows: IntArray, folds: IntArray) -> FloatArray:
        """As `logits`, but reference proteins of the query's own fold (`folds[row]`) have no vote."""
        ...


def logit(probability: npt.NDArray[np.floating]) -> FloatArray:
    """log(p / (1 - p)), limited to +-LOGIT_LIMIT."""
    floor = 1.0 / (1.0 + np.exp(LOGIT_LIMIT))
    clipped = np.clip(probability.astype(np.float64), floor, 1.0 - floor)
    return np.log(clipped / (1.0 - clipped)).astype(np.float32)
