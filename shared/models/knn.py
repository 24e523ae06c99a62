"""Nearest neighbours in embedding space: exact cosine, weighted vote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.models.feature_space import FeatureSpace
from shared.models.features import Features, FloatArray, IntArray
from shared.models.reference import Reference
from shared.nn.nearest import nearest
from shared.nn.transforms import row_blocks

QUERY_ROWS = 1024


class Knn:
    """A vote of the `neighbours` most similar reference proteins, weight exp((cosine - 1) / temperature).

    Every modality is brought to unit length before they are joined, so that a modality counts by what
    it says and not by how many dimensions it has; the cosine is the mean over modalities.
    """

    kind: ClassVar[str] = "knn"
    is_torch: ClassVar[bool] = False

    def __init__(
        self,
        reference: Reference,
        embeddings: npt.NDArray[np.float16],
        space: FeatureSpace,
        terms: tuple[str, ...],
        *,
        neighbours: int,
        temperature: float,
    ) -> None:
        self.reference, self.embeddings, self.space, self.terms = reference, embeddings, space, terms
        self.count, self.temperature = neighbours, temperature

    @staticmethod
    def embed(space: FeatureSpace, features: Features, rows: IntArray) -> FloatArray:
        """Unit vectors [len(rows), dimension]; the zero vector where a protein has no modality."""
        parts = [_unit(space.transform.apply(modality, space.raw(features, rows, modality))) for modality in space.dims]
        return _unit(np.concatenate(parts, axis=1)) if parts else np.zeros((len(rows), 0), np.float32)

    def logits(self, features: Features, rows: IntArray) -> FloatArray:
        """Logits [len(rows), term]; every reference protein may vote."""
        return self._logits(features, rows, None)

    def out_of_fold_logits(self, features: Features, rows: IntArray, folds: IntArray) -> FloatArray:
        """As `logits`, without the votes of the query's own fold."""
        return self._logits(features, rows, folds)

    def neighbours(
        self, features: Features, rows: IntArray, folds: IntArray | None = None
    ) -> tuple[IntArray, FloatArray]:
        """Reference positions and cosines [len(rows), k], best first; equal cosines by position; -inf where fewer exist."""
        queries = self.embed(self.space, features, rows)
        if folds is None:
            return nearest(queries, self.embeddings, self.count)
        own = folds

        def same_fold(place: slice, which: IntArray) -> npt.NDArray[np.bool_]:
            voters = self.reference.rows[place]
            return np.asarray(own[rows[which]][:, None] == own[voters][None, :])

        return nearest(queries, self.embeddings, self.count, same_fold)

    def _logits(self, features: Features, rows: IntArray, folds: IntArray | None) -> FloatArray:
        scores = np.empty((len(rows), len(self.terms)), np.float32)
        for place, block in row_blocks(rows, QUERY_ROWS):
            position, cosine = self.neighbours(features, block, folds)
            weight = np.exp((cosine - 1.0) / np.float32(self.temperature))
            query = np.repeat(np.arange(len(block)), position.shape[1])
            shape = (len(block), len(self.reference.rows))
            votes = sparse.csr_array((weight.ravel(), (query, position.ravel())), shape=shape)
            priors = None if folds is None else self.reference.priors_without_fold(folds[block], folds)
            scores[place] = self.reference.vote(votes, priors)
        return scores

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Reference embeddings, labels and the transform."""
        return {"embeddings": self.embeddings, **self.reference.arrays(), **self.space.arrays()}

    def architecture(self) -> dict[str, Any]:
        """Terms, options and the feature specification."""
        return {
            "terms": list(self.terms),
            "neighbours": self.count,
            "temperature": self.temperature,
            **self.space.architecture(),
        }

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from plain values."""
        space = FeatureSpace.restore(architecture, arrays)
        return cls(
            Reference.restore(arrays),
            arrays["embeddings"],
            space,
            tuple(architecture["terms"]),
            neighbours=int(architecture["neighbours"]),
            temperature=float(architecture["temperature"]),
        )


def _unit(vectors: FloatArray) -> FloatArray:
    norm = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    unit: FloatArray = vectors / np.maximum(norm, np.float32(1e-12))
    return unit
