"""The vector that a model sees of a protein: transformed modalities one after the other, then its taxon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from shared.errors import DataError
from shared.models.features import MODALITIES, Features, FloatArray, IntArray
from shared.nn.transforms import Transform, Version

TAXON = "taxon"


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """A fitted feature specification: names, dimensions, order, transform and known taxa.

    `taxa` are ascending taxon ids with a column of their own; the taxon block has one more column for
    every other taxon, and none at all where `taxa` is empty.
    """

    dims: Mapping[str, int]  # present modalities in MODALITIES order
    taxa: IntArray
    transform: Transform

    @classmethod
    def fit(
        cls,
        features: Features,
        rows: IntArray,
        *,
        version: Version,
        normalize: bool,
        min_taxon_proteins: int,
        modalities: Sequence[str] = MODALITIES,
    ) -> Self:
        """Fit on the given rows; absent modalities are skipped.

        A taxon of at least `min_taxon_proteins` of the rows has a column of its own, where all modalities are taken.
        """
        dims = {
            modality: features.dense[modality].shape[1]
            for modality in MODALITIES
            if modality in modalities and modality in features.dense and features.dense[modality].shape[1]
        }
        present = {modality: features.dense[modality] for modality in dims}
        taxa, counts = np.unique(features.taxa[rows], return_counts=True)
        frequent = taxa[(counts >= min_taxon_proteins) & (taxa != 0) & (tuple(modalities) == tuple(MODALITIES))]
        return cls(dims, frequent.astype(np.int64), Transform.fit(version, normalize, present, rows))

    @property
    def blocks(self) -> dict[str, int]:
        """Block name -> columns, in the order of `matrix`: the modalities, then `taxon`."""
        return {**self.dims, **({TAXON: len(self.taxa) + 1} if len(self.taxa) else {})}

    @property
    def width(self) -> int:
        """Columns of `matrix`."""
        return sum(self.blocks.values())

    def slices(self) -> dict[str, slice]:
        """Where each block's columns are in `matrix`."""
        ends = np.cumsum([0, *self.blocks.values()])
        return {name: slice(int(ends[i]), int(ends[i + 1])) for i, name in enumerate(self.blocks)}

    def raw(self, features: Features, rows: IntArray, modality: str) -> FloatArray:
        """One modality's untransformed vectors [len(rows), dimension] as float32.

        Raises:
            DataError: the features have another dimension than the model was fitted on.
        """
        array = features.dense.get(modality)
        if array is None or array.shape[1] != self.dims[modality]:
            found = 0 if array is None else array.shape[1]
            raise DataError(
                f"modality {modality} has {found} dimensions, the model needs {self.dims[modality]}",
                remedy="Use the encoders and the vectoriser of the model's own run",
            )
        return np.asarray(array[rows], np.float32)

    def one_hot_taxa(self, features: Features, rows: IntArray) -> FloatArray:
        """Taxon block [len(rows), len(taxa) + 1]; the last column is every taxon that is not listed, and unknown."""
        taxa = features.taxa[rows]
        block = np.zeros((len(rows), len(self.taxa) + 1), np.float32)
        place = np.searchsorted(self.taxa, taxa)
        known = (place < len(self.taxa)) & (self.taxa[np.minimum(place, len(self.taxa) - 1)] == taxa)
        block[np.arange(len(rows)), np.where(known, place, len(self.taxa))] = 1.0
        return block

    def matrix(self, features: Features, rows: IntArray) -> FloatArray:
        """All blocks side by side, float32 [len(rows), width]."""
        parts = [self.transform.apply(modality, self.raw(features, rows, modality)) for modality in self.dims]
        if len(self.taxa):
            parts.append(self.one_hot_taxa(features, rows))
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(rows), 0), np.float32)

    def architecture(self) -> dict[str, Any]:
        """Plain JSON values: order and size of the blocks, taxa, transform version."""
        return {
            "modalities": [[name, size] for name, size in self.dims.items()],
            "taxa": [int(taxon) for taxon in self.taxa],
            "transform": self.transform.version,
        }

    def arrays(self) -> dict[str, FloatArray]:
        """The transform's fitted arrays."""
        return self.transform.arrays()

    @classmethod
    def restore(cls, architecture: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `architecture` and `arrays`."""
        dims = {str(name): int(size) for name, size in architecture["modalities"]}
        return cls(
            dims, np.asarray(architecture["taxa"], np.int64), Transform.restore(architecture["transform"], arrays)
        )
