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
    if not kept.any():
        return None
    # As np.unique, but what is sorted is the different scores, which are few.
    group, values = pd.factorize(scores[kept].astype(np.float64), sort=True)
    sizes = np.bincount(group)
    frequency = np.repeat(np.bincount(group, true[kept]) / sizes, sizes)
    score = np.repeat(values, sizes)
    bins = [part for part in np.array_split(np.arange(len(score)), CALIBRATION_BINS) if len(part)]
    gaps = [abs(score[part].mean() - frequency[part].mean()) * len(part) for part in bins]
    return float(np.sum(gaps) / len(score))


def calibration_errors(
    scores: sparse.csr_array, truth: sparse.csr_array, ontology: Ontology, *, no_orphans: bool = True
) -> dict[str, float | None]:
    """`calibration_error` per aspect, over the proteins annotated in it; both matrices propagated."""
    counted = np.diff(ontology.parent_rows[0]) > 0 if no_orphans else np.ones(len(ontology), bool)
    true = true_entries((scores.indptr, scores.indices), (truth.indptr, truth.indices), scores.shape[1])
    row = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    errors = {}
    for number, aspect in enumerate(ASPECTS):
        own = ontology.aspects == number
        annotated = np.zeros(scores.shape[0], bool)
        annotated[rows_annotated(truth, own)] = True
        chosen = annotated[row] & (own & counted)[scores.indices]
        errors[aspect] = _error(scores.data[chosen], true[chosen])
    return errors


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
