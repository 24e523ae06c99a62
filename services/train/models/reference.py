"""The labelled reference of a vote, from the rows of a fit."""

from __future__ import annotations

import numpy as np

from services.train.models.base import TrainingData
from services.train.models.targets import known_labels, positives
from shared.models.features import IntArray
from shared.models.reference import Reference


def make_reference(data: TrainingData, rows: IntArray) -> Reference:
    """Labels, annotated aspects, priors and taxa of the train proteins at `rows`."""
    ordered = np.unique(rows)
    annotated = data.annotated[ordered]
    voters = np.maximum(annotated.sum(0)[data.aspects], 1)
    labels = known_labels(data, ordered)
    priors = (positives(data, ordered) / voters).astype(np.float32)
    return Reference(ordered, labels, annotated, data.aspects, priors, data.features.taxa[ordered])
