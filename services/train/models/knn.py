"""Fits the neighbour vote: transform, reference vectors and labels."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from services.train.models.base import FitContext, Targets, TrainingData
from services.train.models.reference import make_reference
from services.train.models.saved import mapped_array
from shared.errors import MissingInput
from shared.models.feature_space import FeatureSpace
from shared.models.features import MODALITIES, IntArray
from shared.models.knn import Knn
from shared.nn.transforms import row_blocks

NO_TAXA = np.iinfo(np.int64).max  # a neighbour is near by its vectors; the taxon block stays empty


class KnnFitter:
    """Registry entry `knn`."""

    name: ClassVar[str] = "knn"
    settings: ClassVar[str] = "knn"
    sections: ClassVar[tuple[str, ...]] = ("knn",)
    modalities: ClassVar[tuple[str, ...]] = MODALITIES
    votes: ClassVar[bool] = True
    targets: ClassVar[Targets] = "raw"

    def fit(self, data: TrainingData, rows: IntArray, context: FitContext) -> Knn:
        """Make the proteins at `rows` the reference.

        Raises:
            MissingInput: no modality is present.
        """
        reference = make_reference(data, rows)
        transform = context.transform
        space = FeatureSpace.fit(
            data.features,
            reference.rows,
            version=transform.version,
            normalize=transform.normalize,
            min_taxon_proteins=NO_TAXA,
        )
        if not space.dims:
            raise MissingInput(
                "knn has no modality to search in",
                where="embed",
                remedy="Set embed.esm2 or embed.t5, or leave knn out of level1.models",
            )
        # In a file: two bytes per column and protein are the one thing here that grows with both.
        embeddings = mapped_array(context.work / "embeddings.npy", (len(reference.rows), space.width), np.float16)
        for place, block in row_blocks(reference.rows):
            embeddings[place] = Knn.embed(space, data.features, block)
        options = context.config.knn
        return Knn(
            reference, embeddings, space, data.terms, neighbours=options.neighbours, temperature=options.temperature
        )
