"""Whether scores are probabilities: expected calibration error, Brier score, reliability bins.

Pairs are (protein annotated in the aspect, non-root term) with a score of at least 0.05; bins hold equally
many pairs. Brier: G. Brier 1950, mean squared difference of score and outcome.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from services.train.evaluation_monitors import CALIBRATION_BINS, CALIBRATION_FLOOR, calibration_error, rows_annotated
from shared.ontology import ASPECTS, Ontology


@dataclass(frozen=True, slots=True)
class Reliability:
    """One aspect's calibration; `bins` are (mean score, share true, pairs)."""

    ece: float | None
    brier: float | None
    pairs: int
    bins: list[tuple[float, float, int]]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def reliability(scores: sparse.csr_array, truth: sparse.csr_array, ontology: Ontology) -> dict[str, Reliability]:
    """Per aspect, from propagated scores and propagated labels [protein, ontology term]."""
    counted = np.diff(ontology.parent_rows[0]) > 0
    result = {}
    for number, aspect in enumerate(ASPECTS):
        own = ontology.aspects == number
        rows, columns = rows_annotated(truth, own), np.flatnonzero(own & counted)
        result[aspect] = _reliability(
            sparse.csr_array(scores[rows][:, columns]), sparse.csr_array(truth[rows][:, columns])
        )
    return result


def _reliability(scores: sparse.csr_array, labels: sparse.csr_array) -> Reliability:
    row = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    kept = scores.data >= CALIBRATION_FLOOR
    values = scores.data[kept].astype(np.float64)
    if not len(values):
        return Reliability(None, None, 0, [])
    true = np.asarray(labels.astype(np.float64)[row[kept], scores.indices[kept]]).ravel()
    order = np.argsort(values, kind="stable")
    parts = [part for part in np.array_split(order, CALIBRATION_BINS) if len(part)]
    bins = [(float(values[part].mean()), float(true[part].mean()), len(part)) for part in parts]
    return Reliability(calibration_error(scores, labels), float(np.mean((values - true) ** 2)), len(values), bins)


def floor_share(scores: sparse.csr_array, ontology: Ontology, least: float) -> dict[str, float]:
    """Per aspect, the share of proteins that have a non-root term of at least `least`."""
    counted = np.diff(ontology.parent_rows[0]) > 0
    shares = {}
    for number, aspect in enumerate(ASPECTS):
        columns = np.flatnonzero((ontology.aspects == number) & counted)
        best: npt.NDArray[Any] = scores[:, columns].max(axis=1).toarray().ravel() if len(columns) else np.zeros(0)
        shares[aspect] = float(np.mean(best >= least)) if len(best) else 0.0
    return shares
