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
    place, levels = pd.factorize(scores.data.astype(np.float64), sort=True)
    ranked = sparse.csr_array((place, scores.indices, scores.indptr), shape=scores.shape)
    return calibration_errors_of_levels(ranked, levels, truth, ontology, no_orphans=no_orphans)


def calibration_errors_of_levels(
    ranked: sparse.csr_array,
    levels: npt.NDArray[np.float64],
    truth: sparse.csr_array,
    ontology: Ontology,
    *,
    no_orphans: bool = True,
) -> dict[str, float | None]:
    """As `calibration_errors`, of scores that are written as their places, from 0, in the ascending `levels`."""
    counted = np.diff(ontology.parent_rows[0]) > 0 if no_orphans else np.ones(len(ontology), bool)
    annotated = np.zeros((len(ASPECTS), ranked.shape[0]), np.bool_)
    for number in range(len(ASPECTS)):
        annotated[number, rows_annotated(truth, ontology.aspects == number)] = True
    aspects = np.where(counted, ontology.aspects, -1).astype(np.int8)
    pairs, true = _level_counts(
        (ranked.indptr, ranked.indices, ranked.data), (truth.indptr, truth.indices), aspects, annotated, len(levels)
    )
    return {aspect: _error_of_levels(levels, pairs[i], true[i]) for i, aspect in enumerate(ASPECTS)}


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
    errors, pairs = np.zeros(scores.shape[0]), np.zeros(scores.shape[0])
    result: dict[str, float | None] = {}
    for number, aspect in enumerate(ASPECTS):
        rows = rows_annotated(truth, ontology.aspects == number)
        chosen = columns[ontology.aspects[columns] == number]
        s = sparse.csr_array(scores[rows][:, chosen].astype(np.float64))
        y = sparse.csr_array(truth[rows][:, chosen].astype(np.float64))
        errors[rows] += np.asarray(abs(s - y).sum(axis=1)).ravel()
        pairs[rows] += len(chosen)
        result[f"pearson/per_head/{aspect}"] = _pearson(s, y)
    result[f"mae/{part}"] = float(errors.sum() / pairs.sum()) if pairs.sum() else None
    for taxon in np.unique(taxa[pairs > 0]):
        members = taxa == taxon
        result[f"mae/per_group/{taxon}"] = float(errors[members].sum() / pairs[members].sum())
    return result


def _pearson(s: sparse.csr_array, y: sparse.csr_array) -> float | None:
    count = s.shape[0] * s.shape[1]
    if not count:
        return None
    mean_s, mean_y = s.sum() / count, y.sum() / count
    var_s, var_y = s.power(2).sum() / count - mean_s**2, y.power(2).sum() / count - mean_y**2
    if var_s <= 1e-12 or var_y <= 1e-12:
        return None
    return float((s.multiply(y).sum() / count - mean_s * mean_y) / np.sqrt(var_s * var_y))
