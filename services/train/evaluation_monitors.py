"""Figures that watch a model beside Fmax: calibration error, mean absolute error, correlation."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from shared.compiled import compiled
from shared.ontology import ASPECTS, Ontology

CALIBRATION_BINS = 15
CALIBRATION_FLOOR = 0.05  # nearly all pairs score less, and would hide the ones that are read


def rows_annotated(labels: sparse.csr_array, columns: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Rows with a label in any of the columns (a mask), ascending."""
    has = np.zeros(labels.shape[0], bool)
    has[np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr))[columns[labels.indices]]] = True
    return np.flatnonzero(has).astype(np.int64)


@compiled
def true_entries(
    scores: tuple[npt.NDArray[Any], npt.NDArray[Any]], labels: tuple[npt.NDArray[Any], npt.NDArray[Any]], width: int
) -> npt.NDArray[np.bool_]:
    """Which stored entries of one CSR pattern (pointer, index) are in another with the same rows."""
    pointer, index = scores
    label_pointer, label_index = labels
    found = np.zeros(len(index), np.bool_)
    row_of = np.full(width, -1, np.int64)  # the last row that had the column among its labels
    for row in range(len(pointer) - 1):
        for j in range(label_pointer[row], label_pointer[row + 1]):
            row_of[label_index[j]] = row
        for j in range(pointer[row], pointer[row + 1]):
            found[j] = row_of[index[j]] == row
    return found


def calibration_error(scores: sparse.csr_array, labels: sparse.csr_array) -> float | None:
    """Expected calibration error: mean |score - frequency of true| over bins of equally many pairs.

    Pairs that score less than 0.05 are left out; equal scores share their labels evenly, so that the
    order of proteins does not matter. None without pairs.

    Args:
        scores: [protein, term], canonical CSR.
        labels: same shape; the proteins should be those annotated in the terms' aspect.
    """
    true = true_entries((scores.indptr, scores.indices), (labels.indptr, labels.indices), scores.shape[1])
    return _error(scores.data, true)


def _error(scores: npt.NDArray[np.floating], true: npt.NDArray[np.bool_]) -> float | None:
    kept = scores >= CALIBRATION_FLOOR
    # As np.unique, but what is sorted is the different scores, which are few.
    group, levels = pd.factorize(scores[kept].astype(np.float64), sort=True)
    return _error_of_levels(levels, np.bincount(group), np.bincount(group, true[kept]))


def _error_of_levels(
    levels: npt.NDArray[np.float64], pairs: npt.NDArray[np.integer], true: npt.NDArray[np.number]
) -> float | None:
    """From the different scores, ascending, and how many pairs, and true pairs, have each."""
    kept = (levels >= CALIBRATION_FLOOR) & (pairs > 0)
    if not kept.any():
        return None
    levels, pairs, true = levels[kept], pairs[kept], true[kept]
    ends = np.cumsum(pairs)
    total = int(ends[-1])
    # Bins as np.array_split makes them: the first ones have one pair more.
    edges = np.arange(CALIBRATION_BINS + 1) * (total // CALIBRATION_BINS)
    edges += np.minimum(np.arange(CALIBRATION_BINS + 1), total % CALIBRATION_BINS)
    level = np.searchsorted(ends, edges).clip(max=len(ends) - 1)
    # Sums of score minus frequency over the pairs before each edge; a level may lie in several bins.
    gap = levels - true / pairs
    before = np.concatenate(([0.0], np.cumsum(gap * pairs)[:-1]))
    sums = before[level] + gap[level] * (edges - (ends - pairs)[level])
    return float(np.abs(np.diff(sums)).sum() / total)


def calibration_errors(
    scores: sparse.csr_array, truth: sparse.csr_array, ontology: Ontology, *, no_orphans: bool = True
) -> dict[str, float | None]:
    """`calibration_error` per aspect, over the proteins annotated in it; both matrices propagated."""
    counts = CalibrationCounts(ontology, no_orphans=no_orphans)
    counts.add(scores, truth)
    return counts.errors()


def calibration_errors_of_levels(
    ranked: sparse.csr_array,
    levels: npt.NDArray[np.float64],
    truth: sparse.csr_array,
    ontology: Ontology,
    *,
    no_orphans: bool = True,
) -> dict[str, float | None]:
    """As `calibration_errors`, of scores that are written as their places, from 0, in the ascending `levels`."""
    counts = CalibrationCounts(ontology, no_orphans=no_orphans)
    counts.add_levels(ranked, levels, truth)
    return counts.errors()


class CalibrationCounts:
    """`calibration_errors` of proteins that come some at a time: how many pairs have each different score."""

    def __init__(self, ontology: Ontology, *, no_orphans: bool = True) -> None:
        counted = np.diff(ontology.parent_rows[0]) > 0 if no_orphans else np.ones(len(ontology), bool)
        self._of_term, self._aspects = ontology.aspects, np.where(counted, ontology.aspects, -1).astype(np.int8)
        self._levels = np.zeros(0)
        self._counts = np.zeros((2, len(ASPECTS), 0), np.int64)  # pairs, true pairs

    def add(self, scores: sparse.csr_array, truth: sparse.csr_array) -> None:
        """Count some proteins; both matrices propagated."""
        place, levels = pd.factorize(scores.data.astype(np.float64), sort=True)
        self.add_levels(sparse.csr_array((place, scores.indices, scores.indptr), shape=scores.shape), levels, truth)

    def add_levels(self, ranked: sparse.csr_array, levels: npt.NDArray[np.float64], truth: sparse.csr_array) -> None:
        """The same of scores that are written as their places, from 0, in the ascending `levels`."""
        annotated = np.zeros((len(ASPECTS), ranked.shape[0]), np.bool_)
        for number in range(len(ASPECTS)):
            annotated[number, rows_annotated(truth, self._of_term == number)] = True
        found = _level_counts(
            (ranked.indptr, ranked.indices, ranked.data),
            (truth.indptr, truth.indices),
            self._aspects,
            annotated,
            len(levels),
        )
        union = np.union1d(self._levels, levels)
        counts = np.zeros((*self._counts.shape[:2], len(union)), np.int64)
        counts[..., np.searchsorted(union, self._levels)] += self._counts
        counts[..., np.searchsorted(union, levels)] += found
        self._levels, self._counts = union, counts

    def errors(self) -> dict[str, float | None]:
        """Per aspect."""
        return {
            aspect: _error_of_levels(self._levels, self._counts[0, number], self._counts[1, number])
            for number, aspect in enumerate(ASPECTS)
        }


@compiled
def _level_counts(
    ranked: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]],
    labels: tuple[npt.NDArray[Any], npt.NDArray[Any]],
    aspects: npt.NDArray[np.int8],
    annotated: npt.NDArray[np.bool_],
    levels: int,
) -> npt.NDArray[np.int64]:
    """Pairs, and true pairs, of each aspect (-1 is none) and level, in rows annotated in the aspect; [2, aspect, level]."""
    pointer, index, level = ranked
    label_pointer, label_index = labels
    counts = np.zeros((2, annotated.shape[0], levels), np.int64)
    row_of = np.full(len(aspects), -1, np.int64)  # the last row that had the column among its labels
    for row in range(len(pointer) - 1):
        for j in range(label_pointer[row], label_pointer[row + 1]):
            row_of[label_index[j]] = row
        for j in range(pointer[row], pointer[row + 1]):
            aspect = aspects[index[j]]
            if aspect >= 0 and annotated[aspect, row]:
                counts[0, aspect, int(level[j])] += 1
                counts[1, aspect, int(level[j])] += row_of[index[j]] == row
    return counts


def monitors(
    scores: sparse.csr_array,
    truth: sparse.csr_array,
    ontology: Ontology,
    *,
    columns: npt.NDArray[np.int64],
    taxa: npt.NDArray[np.int64],
    part: Literal["train", "val"] = "val",
) -> dict[str, float | None]:
    """Mean absolute error and correlation of scores with 0/1 labels, over pairs of annotated aspects.

    Args:
        scores: propagated, [protein, len(ontology)].
        truth: propagated, same shape.
        ontology: names the columns.
        columns: the terms to look at.
        taxa: [protein] taxon ids, the groups of `mae/per_group`.
        part: names the key `mae/<part>`.

    Returns:
        `mae/<part>`, `mae/per_group/<taxon>`, `pearson/per_head/<aspect>`; None where there is no pair,
        or where scores or labels are constant.
    """
    watched = Monitors(ontology, columns)
    watched.add(scores, truth, taxa)
    return watched.keys(part)


class Monitors:
    """`monitors` of proteins that come some at a time; some twenty numbers are kept of each."""

    def __init__(self, ontology: Ontology, columns: npt.NDArray[np.int64]) -> None:
        self._aspects, self._columns = ontology.aspects, columns
        # Per aspect and protein, because sums of proteins would round by which came together: the number of terms,
        # then sums of scores, labels, squares of both, products.
        self._moments: list[list[npt.NDArray[np.float64]]] = [[] for _ in ASPECTS]
        self._errors: list[npt.NDArray[np.float64]] = []
        self._pairs: list[npt.NDArray[np.float64]] = []
        self._taxa: list[npt.NDArray[np.int64]] = []

    def add(self, scores: sparse.csr_array, truth: sparse.csr_array, taxa: npt.NDArray[np.int64]) -> None:
        """Count some proteins; arguments as `monitors`'."""
        errors, pairs = np.zeros(scores.shape[0]), np.zeros(scores.shape[0])
        for number in range(len(ASPECTS)):
            rows = rows_annotated(truth, self._aspects == number)
            chosen = self._columns[self._aspects[self._columns] == number]
            s = sparse.csr_array(scores[rows][:, chosen].astype(np.float64))
            y = sparse.csr_array(truth[rows][:, chosen].astype(np.float64))
            errors[rows] += np.asarray(abs(s - y).sum(axis=1)).ravel()
            pairs[rows] += len(chosen)
            sums = [each.sum(axis=1) for each in (s, y, s.power(2), y.power(2), s.multiply(y))]
            self._moments[number].append(np.stack([np.full(len(rows), float(len(chosen))), *sums], axis=1))
        self._errors.append(errors)
        self._pairs.append(pairs)
        self._taxa.append(taxa)

    def keys(self, part: Literal["train", "val"] = "val") -> dict[str, float | None]:
        """Figures by their agreed keys."""
        if not self._errors:
            return {}
        errors, pairs, taxa = (np.concatenate(each) for each in (self._errors, self._pairs, self._taxa))
        result = {
            f"pearson/per_head/{aspect}": _pearson(np.concatenate(of).sum(0))
            for aspect, of in zip(ASPECTS, self._moments, strict=True)
        }
        result[f"mae/{part}"] = float(errors.sum() / pairs.sum()) if pairs.sum() else None
        for taxon in np.unique(taxa[pairs > 0]):
            members = taxa == taxon
            result[f"mae/per_group/{taxon}"] = float(errors[members].sum() / pairs[members].sum())
        return result


def _pearson(moments: npt.NDArray[np.float64]) -> float | None:
    count, total_s, total_y, square_s, square_y, product = moments
    if not count:
        return None
    mean_s, mean_y = total_s / count, total_y / count
    var_s, var_y = square_s / count - mean_s**2, square_y / count - mean_y**2
    if var_s <= 1e-12 or var_y <= 1e-12:
        return None
    return float((product / count - mean_s * mean_y) / np.sqrt(var_s * var_y))
