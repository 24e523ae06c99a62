"""What the stacker sees of a protein and a term: one number per channel.

Channels, in order: the logit of each level-1 model, whether the term was fitted at all, and one per
kind of GOA annotation. Training and prediction build them here, so that both round and order alike:
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


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of a stacker: level-1 models and GOA kinds by name, in column order."""

    models: tuple[str, ...]
    goa: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every channel, in the order of the last axis of `stack`."""
        return (*(f"level1:{name}" for name in self.models), "missing", *(f"goa:{name}" for name in self.goa))

    def __len__(self) -> int:
        return len(self.models) + 1 + len(self.goa)

    def stack(
        self,
        level1: Mapping[str, npt.NDArray[np.floating]],
        missing: FloatArray,
        goa: Mapping[str, sparse.csr_array] | None,
        columns: IntArray,
    ) -> FloatArray:
        """Channel values [protein, term, channel] of some proteins.

        Args:
            level1: model -> logits [protein, level-1 term].
            missing: share of folds whose models never fitted the term: [term] or [protein, term].
            goa: kind -> scores [protein, term], 0 where not annotated; a kind that is absent, or None,
                counts as no annotation.
            columns: [term] position of each term among the level-1 terms.

        Raises:
            MissingInput: a model has no logits.
        """
        absent = [name for name in self.models if name not in level1]
        if absent:
            raise MissingInput(f"no level-1 logits of {', '.join(absent)}", where="the stacker's channels")
        proteins = next(iter(level1.values())).shape[0]
        # One plane per channel while filling, because writing along the last axis is slow.
        planes = np.zeros((len(self), proteins, len(columns)), np.float32)
        for plane, name in zip(planes, self.models, strict=False):
            plane[:] = level1[name][:, columns].astype(np.float16)
        planes[len(self.models)] = missing
        for plane, name in zip(planes[len(self.models) + 1 :], self.goa, strict=True):
            if goa is not None and name in goa:
                plane[:] = goa[name].toarray()
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
