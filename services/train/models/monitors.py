"""Monitors of a level-1 matrix: how far scores are from the labels of proteins that no fit of theirs had seen.

They are watched, not optimised: `fmax_w` on held-out clusters is what decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from services.train.models.base import TrainingData
from services.train.models.inputs import Splits
from shared.nn.transforms import row_blocks
from shared.ontology import ASPECTS


@dataclass
class _Moments:
    """Sums for a correlation of two variables, block by block."""

    sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(6))

    def add(self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
        self.sums += [x.size, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()]

    def pearson(self) -> float | None:
        """None where a variable is constant."""
        count, x, y, xx, yy, xy = self.sums
        if count == 0:
            return None
        spread = (xx - x * x / count) * (yy - y * y / count)
        return float((xy - x * y / count) / np.sqrt(spread)) if spread > 1e-12 * max(xx * yy, 1e-300) else None


def monitor(
    logits: npt.NDArray[np.float16], data: TrainingData, splits: Splits, min_taxon_proteins: int
) -> dict[str, float | None]:
    """Metrics of out-of-fold and validation logits [train protein, term] against 0/1 labels of known entries.

    Args:
        logits: every row scored by models that had not seen it.
        data: the labels; unannotated aspects are left out.
        splits: fit rows make `mae/train`, validation rows `mae/val`.
        min_taxon_proteins: a taxon with fewer proteins has no `mae/per_group/<taxon>`.
    """
    correlation = {aspect: _Moments() for aspect in ASPECTS}
    errors = np.zeros(len(data.features))  # [protein], sum of absolute errors
    known_entries = np.zeros(len(data.features))
    for place, block in row_blocks(np.arange(len(data.features))):
        scores = 1.0 / (1.0 + np.exp(-np.asarray(logits[place], np.float64)))
        truth = data.labels[block].toarray().astype(np.float64)
        known = data.annotated[block][:, data.aspects]
        errors[place] = (np.abs(scores - truth) * known).sum(1)
        known_entries[place] = known.sum(1)
        for index, aspect in enumerate(ASPECTS):
            chosen = known & (data.aspects == index)
            correlation[aspect].add(scores[chosen], truth[chosen])

    def mean_error(rows: npt.NDArray[np.bool_]) -> float | None:
        return float(errors[rows].sum() / known_entries[rows].sum()) if known_entries[rows].sum() else None

    taxa, counts = np.unique(data.features.taxa, return_counts=True)
    groups = {
        f"mae/per_group/{taxon}": mean_error(data.features.taxa == taxon)
        for taxon in taxa[counts >= min_taxon_proteins]
    }
    heads = {f"pearson/per_head/{aspect}": moments.pearson() for aspect, moments in correlation.items()}
    return {"mae/train": mean_error(splits.fit), "mae/val": mean_error(~splits.fit), **heads, **groups}
