"""What the stacker sees of a protein and a term: one number per channel.

Channels, in order: the logit of each level-1 model, whether the term was fitted at all, one per kind of
GOA annotation, and what the other aspects' scores say of the protein, alike for each of its terms. Training and prediction build them here, so that both round and order alike:
level-1 logits pass through float16, the precision in which stage 7 keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from shared.errors import IntegrityError, MissingInput
from shared.models.features import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class CrossAspect:
    """Where a protein stands by the other aspects' level-1 scores, for the stacker of one aspect.

    Attributes:
        columns: [other term], positions among the level-1 terms.
        mean: [other term], of the mean over models.
        directions: [other term, component].
    """

    columns: IntArray
    mean: FloatArray
    directions: FloatArray

    def of(self, level1: Mapping[str, npt.NDArray[np.floating]]) -> FloatArray:
        """[protein, component]; each row by itself, because a product of several rows may round by their number."""
        scores = mean_scores(level1, np.arange(next(iter(level1.values())).shape[0]), self.columns) - self.mean
        found = np.zeros((len(scores), self.directions.shape[1]), np.float32)
        for row, values in enumerate(scores):
            found[row] = values @ self.directions
        return found


def mean_scores(level1: Mapping[str, npt.NDArray[np.floating]], rows: IntArray, columns: IntArray) -> FloatArray:
    """Mean over the models of their logits as a run keeps them, float32 [row, column]."""
    total = np.zeros((len(rows), len(columns)), np.float32)
    for matrix in level1.values():
        total += matrix[rows][:, columns].astype(np.float16)
    return total / np.float32(max(1, len(level1)))


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of a stacker, in column order: level-1 models, GOA kinds, components of the other aspects."""

    models: tuple[str, ...]
    goa: tuple[str, ...] = ()
    cross: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Every channel, in the order of the last axis of `stack`."""
        return (
            *(f"level1:{name}" for name in self.models),
            "missing",
            *(f"goa:{name}" for name in self.goa),
            *(f"cross:{number}" for number in range(self.cross)),
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """As `names`, but the components of the other aspects, which mean nothing one by one, are all called `cross`."""
        return (*self.names[: self.cross_part.start], *("cross",) * self.cross)

    @property
    def goa_part(self) -> slice:
        """Where the GOA kinds are on the last axis."""
        return slice(len(self.models) + 1, len(self.models) + 1 + len(self.goa))

    @property
    def cross_part(self) -> slice:
        """Where the other aspects are on the last axis."""
        return slice(self.goa_part.stop, len(self))

    def __len__(self) -> int:
        return len(self.models) + 1 + len(self.goa) + self.cross

    def stack(
        self,
        level1: Mapping[str, npt.NDArray[np.floating]],
        missing: FloatArray,
        goa: Mapping[str, sparse.csr_array] | None,
        columns: IntArray,
        cross: FloatArray | None = None,
    ) -> FloatArray:
        """Channel values [protein, term, channel] of some proteins.

        Args:
            level1: model -> logits [protein, level-1 term].
            missing: share of folds whose models never fitted the term: [term] or [protein, term].
            goa: kind -> scores [protein, term], 0 where not annotated; a kind that is absent, or None,
                counts as no annotation.
            columns: [term] position of each term among the level-1 terms.
            cross: [protein, component] of `CrossAspect.of`; needed where `self.cross` is not 0.

        Raises:
            MissingInput: a model has no logits, or the other aspects are missing.
        """
        if self.cross and cross is None:
            raise MissingInput("no components of the other aspects", where="the stacker's channels")
        absent = [name for name in self.models if name not in level1]
        if absent:
            raise MissingInput(f"no level-1 logits of {', '.join(absent)}", where="the stacker's channels")
        proteins = next(iter(level1.values())).shape[0]
        # One plane per channel while filling, because writing along the last axis is slow.
        planes = np.zeros((len(self), proteins, len(columns)), np.float32)
        for plane, name in zip(planes, self.models, strict=False):
            plane[:] = level1[name][:, columns].astype(np.float16)
        planes[len(self.models)] = missing
        for plane, name in zip(planes[self.goa_part], self.goa, strict=True):
            if goa is not None and name in goa:
                plane[:] = goa[name].toarray()
        if cross is not None:
            planes[self.cross_part] = cross.T[:, :, None]
        return planes.transpose(1, 2, 0)


def check_width(level1: Mapping[str, npt.NDArray[np.floating]], width: int) -> None:
    """Hold level-1 matrices to one shape.

    Raises:
        IntegrityError: a matrix has other columns than the level-1 terms, or other rows than the rest.
    """
    shapes = {name: matrix.shape for name, matrix in level1.items()}
    if any(len(shape) != 2 or shape[1] != width for shape in shapes.values()) or len(set(shapes.values())) > 1:
        raise IntegrityError(
            f"level-1 logits have shapes {shapes}, not [protein, {width}]",
            where="the stacker's channels",
            remedy="Use level-1 scores and stacker of the same run",
        )


def goa_matrices(
    chunks: Iterable[pd.DataFrame], ids: Sequence[str], terms: Sequence[str]
) -> dict[str, sparse.csr_array]:
    """Collect GOA annotations as kind -> scores [protein, term], kinds sorted.

    Args:
        chunks: frames with EntryID, term, channel, score; ids and terms that are not wanted are skipped,
            the highest score of a repeated line counts.
        ids: proteins, in row order.
        terms: terms, in column order.
    """
    proteins, columns = pd.Index(ids), pd.Index(terms)
    found: list[tuple[npt.NDArray[Any], ...]] = []
    kinds: dict[str, int] = {}
    for chunk in chunks:
        row = proteins.get_indexer(pd.Index(chunk["EntryID"]))
        column = columns.get_indexer(pd.Index(chunk["term"]))
        kept = (row >= 0) & (column >= 0)
        kind = chunk["channel"].to_numpy(object)[kept]
        for name in sorted(set(kind)):
            kinds.setdefault(name, len(kinds))
        codes = np.array([kinds[name] for name in kind], np.int64)
        found.append((codes, row[kept], column[kept], chunk["score"].to_numpy(np.float32)[kept]))
    if not kinds:
        return {}
    codes, rows, positions, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    matrices = {}
    for name in sorted(kinds):
        of_kind = codes == kinds[name]
        matrices[name] = _highest(rows[of_kind], positions[of_kind], scores[of_kind], (len(ids), len(terms)))
    return matrices


def _highest(
    rows: npt.NDArray[Any], columns: npt.NDArray[Any], scores: FloatArray, shape: tuple[int, int]
) -> sparse.csr_array:
    order = np.lexsort((-scores, columns, rows))
    rows, columns, scores = rows[order], columns[order], scores[order]
    first = np.ones(len(rows), bool)
    first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    return sparse.csr_array((scores[first], (rows[first], columns[first])), shape=shape)
