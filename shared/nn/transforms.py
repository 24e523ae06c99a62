"""What is done to a modality's vectors before a model sees them: the one place, for numpy and for torch.

v1 is the pooled vector as it is; v2 the same at unit length. With `normalize` the vectors are then
standardised by a mean and a standard deviation that were fitted on the rows of the fit alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt

from shared.errors import IntegrityError
from shared.models.features import FloatArray, IntArray

Version = Literal["v1", "v2"]
# An np.ndarray or a torch.Tensor; both know every operation that `transform_vectors` uses.
ArrayT = TypeVar("ArrayT", bound=Any)

BLOCK_ROWS = 2048
SMALLEST_NORM = 1e-12
STD_FLOOR = 0.1  # of the modality's root mean square deviation


def transform_vectors(
    vectors: ArrayT, version: Version, mean: ArrayT | None = None, std: ArrayT | None = None
) -> ArrayT:
    """Transform float32 vectors [n, dimension] of one modality; numpy arrays and torch tensors alike.

    A vector of zeros (a protein without text) stays zero in v2.
    """
    if version == "v2":
        norm = (vectors * vectors).sum(axis=-1, keepdims=True) ** 0.5
        vectors = vectors / (norm + SMALLEST_NORM)
    if mean is not None and std is not None:
        vectors = (vectors - mean) / std
    return vectors


@dataclass(frozen=True, slots=True)
class Transform:
    """A fitted transform. `mean` and `std` [dimension] by modality are empty where nothing is standardised."""

    version: Version
    mean: Mapping[str, FloatArray]
    std: Mapping[str, FloatArray]

    @classmethod
    def fit(
        cls, version: Version, normalize: bool, dense: Mapping[str, npt.NDArray[np.floating]], rows: IntArray
    ) -> Self:
        """Fit on the given rows of every modality that has columns, one block of rows at a time.

        A dimension's deviation is at least a tenth of the modality's root mean square deviation, so that
        neither a constant dimension nor a word of three proteins becomes a huge value.
        """
        mean: dict[str, FloatArray] = {}
        std: dict[str, FloatArray] = {}
        if normalize and len(rows):
            for modality, array in sorted(dense.items()):
                if array.shape[1]:
                    mean[modality], std[modality] = _moments(array, rows, version)
        return cls(version, mean, std)

    def apply(self, modality: str, vectors: npt.NDArray[np.floating]) -> FloatArray:
        """Transform one modality's vectors [n, dimension] to float32."""
        transformed: FloatArray = transform_vectors(
            np.asarray(vectors, np.float32), self.version, self.mean.get(modality), self.std.get(modality)
        )
        return transformed

    def arrays(self) -> dict[str, FloatArray]:
        """The fitted arrays, as `transform.mean.<modality>` and `transform.std.<modality>`."""
        named = {f"transform.mean.{modality}": array for modality, array in self.mean.items()}
        return named | {f"transform.std.{modality}": array for modality, array in self.std.items()}

    @classmethod
    def restore(cls, version: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Rebuild from `version` and `arrays`; other arrays are ignored.

        Raises:
            IntegrityError: the version is unknown.
        """
        if version not in ("v1", "v2"):
            raise IntegrityError(
                f"unknown transform version {version!r}", remedy="The model was made by a newer gowhy: update this one"
            )
        known: Version = "v1" if version == "v1" else "v2"
        return cls(known, _with_prefix("transform.mean.", arrays), _with_prefix("transform.std.", arrays))


def row_blocks(rows: IntArray, size: int = BLOCK_ROWS) -> Iterator[tuple[slice, IntArray]]:
    """Consecutive blocks of `rows`, each with its place in them."""
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows))), rows[start : start + size]


def _with_prefix(prefix: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, FloatArray]:
    return {
        name.removeprefix(prefix): np.asarray(array, np.float32)
        for name, array in sorted(arrays.items())
        if name.startswith(prefix)
    }


def _moments(array: npt.NDArray[np.floating], rows: IntArray, version: Version) -> tuple[FloatArray, FloatArray]:
    """Mean and floored standard deviation over rows, in two passes of float64 sums."""

    def blocks() -> Iterator[npt.NDArray[np.float64]]:
        for _, block in row_blocks(rows):
            yield transform_vectors(np.asarray(array[block], np.float32), version).astype(np.float64)

    mean = np.zeros(array.shape[1])
    for values in blocks():
        mean += values.sum(0) / len(rows)
    variance = np.zeros(array.shape[1])
    for values in blocks():
        variance += ((values - mean) ** 2).sum(0) / len(rows)
    typical = float(np.sqrt(variance.mean()))
    std = np.maximum(np.sqrt(variance), STD_FLOOR * typical) if typical > 0 else np.ones(array.shape[1])
    return mean.astype(np.float32), std.astype(np.float32)
