"""Logistic regression: one linear function of the feature vector per term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from shared.models.base import LOGIT_LIMIT
from shared.models.feature_space import FeatureSpace
from shared.models.features import Features, FloatArray, IntArray
from shared.nn.term_chain import TermChain, edges_record, restored_edges
from shared.nn.term_graph import Edge
from shared.nn.transforms import row_blocks


class Logreg:
    """logit = matrix(protein) @ weights + bias; with `edges` that is of P(term | a parent), and the chain follows."""

    kind: ClassVar[str] = "logreg"
    is_torch: ClassVar[bool] = False

    def __init__(
        self,
        space: FeatureSpace,
        weights: FloatArray,
        bias: FloatArray,
        terms: tuple[str, ...],
        edges: Sequence[Edge] | None = None,
    ) -> None:
        self.space, self.weights, self.bias, self.terms = space, weights, bias, terms  # weights [width, term]
        self.chain = None if edges is None else TermChain(edges, len(terms))

    def logits(self, features: Features, rows: IntArray) -> FloatArray:
        """Logits [len(rows), term]."""
        scores = np.empty((len(rows), len(self.terms)), np.float32)
        for place, block in row_blocks(rows):
            linear = self.space.matrix(features, block) @ self.weights + self.bias
            if self.chain is not None:
                linear = self.chain.unconditional(linear)
            scores[place] = np.clip(linear, -LOGIT_LIMIT, LOGIT_LIMIT)
        return scores

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Weights, bias and the transform."""
        return {"weights": self.weights, "bias": self.bias, **self.space.arrays()}

    def architecture(self) -> dict[str, Any]:
        """Terms, the chain's edges and the feature specification."""
        return {"terms": list(self.terms), **edges_record(self.chain), **self.space.architecture()}

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from plain values."""
        space = FeatureSpace.restore(architecture, arrays)
        return cls(space, arrays["weights"], arrays["bias"], tuple(architecture["terms"]), restored_edges(architecture))
