"""Figures that watch a model beside Fmax: calibration error, mean absolute error, correlation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.ontology import ASPECTS, Ontology

CALIBRATION_BINS = 15
CALIBRATION_FLOOR = 0.05  # nearly all pairs score less, and would hide the ones that are read


def rows_annotated(labels: sparse.csr_array, columns: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Rows with a label in any of the columns (a mask), ascending."""
    rows = np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr))
    return np.unique(rows[columns[labels.indices]]).astype(np.int64)


def calibration_error(scores: sparse.csr_array, labels: sparse.csr_array) -> float | None:
    """Expected calibration error: mean |score - frequency of true| over bins of equally many pairs.

    Pairs that score less than 0.05 are left out; equal scores share their labels evenly, so that the
    order of proteins does not matter. None without pairs.

    Args:
        scores: [protein, term], canonical CSR.
        labels: same shape; the proteins should be those annotated in the terms' aspect.
    """
    width = scores.shape[1]
    row = np.repeat(np.arange(scores.shape[0], dtype=np.int64), np.diff(scores.indptr))
    kept = scores.data >= CALIBRATION_FLOOR
    if not kept.any():
        return None
    pairs = row[kept] * width + scores.indices[kept]
    true_rows = np.repeat(np.arange(labels.shape[0], dtype=np.int64), np.diff(labels.indptr))
    true = np.isin(pairs, true_rows * width + labels.indices)
    values, group, sizes = np.unique(scores.data[kept].astype(np.float64), return_inverse=True, return_counts=True)
    frequency = np.repeat(np.bincount(group, true) / sizes, sizes)
    score = np.repeat(values, sizes)
    bins = [part for part in np.array_split(np.arange(len(score)), CALIBRATION_BINS) if len(part)]
    gaps = [abs(score[part].mean() - frequency[part].mean()) * len(part) for part in bins]
    return float(np.sum(gaps) / len(score))


def calibration_errors(
    scores: sparse.csr_array, truth: sparse.csr_array, ontology: Ontology, *, no_orphans: bool = True
) -> dict[str, float | None]:
    """`calibration_error` per aspect, over the proteins annotated in it; both matrices propagated."""
    counted = np.diff(ontology.parent_rows[0]) > 0 if no_orphans else np.ones(len(ontology), bool)
    errors = {}
    for number, aspect in enumerate(ASPECTS):
        own = ontology.aspects == number
        rows, columns = rows_annotated(truth, own), np.flatnonzero(own & counted)
        errors[aspect] = calibration_error(
            sparse.csr_array(scores[rows][:, columns]), sparse.csr_array(truth[rows][:, columns])
        )
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
