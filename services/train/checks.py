"""What must hold before a run's figures are believed.

Each check is a defect that was real in a published pipeline: labels whose columns were sorted while the
term list was not, priors joined to the wrong ids (all zero for train, not for test), embeddings saved
as zeros, and test labels among the labels that were fitted on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.errors import IntegrityError
from shared.models.features import FloatArray, IntArray

CHECKED_PROTEINS = 1000
SURE = 4.0  # standard errors
FEWEST = 5  # proteins
EMPTY, FILLED = 0.9, 0.5  # shares of all-zero rows
MISALIGNED = (
    "a matrix fits the labels better in another order of {axis}: {how}; its rows or columns are not what they are named"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its name, whether it holds, and what was found."""

    name: str
    holds: bool
    found: Mapping[str, Any]
    says: str = ""


def require(checks: Sequence[Check]) -> None:
    """Stop at the first check that does not hold.

    Raises:
        IntegrityError: with what was found.
    """
    for check in checks:
        if not check.holds:
            raise IntegrityError(
                f"check {check.name} failed: {check.says}",
                where="the run's artefacts",
                remedy="Nothing was published; correct the input or the model, and run again",
            )


@dataclass(frozen=True, slots=True)
class Judged:
    """Proteins whose labels entered no fit of what is checked; matrices are [protein, term]."""

    labels: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]  # the term's aspect is annotated
    terms: Sequence[str]


def check_order(name: str, logits: FloatArray, judged: Judged) -> Check:
    """No other order of rows or columns fits the labels clearly better than the one that is claimed.

    Compared per protein are mean log losses: as it is, rows shifted by one either way, columns in the order
    of term ids and of term frequency (the orders that tables are silently sorted in) and shifted by one.
    """
    own = _losses(logits, judged)
    worst: tuple[float, str] = (0.0, "")
    for how, other in _reordered(logits, judged):
        difference = own - _losses(other, judged)
        difference = difference[~np.isnan(difference)]
        if len(difference) < FEWEST:
            continue  # nothing is known of these proteins
        spread = float(difference.std()) / np.sqrt(len(difference))
        worst = max(worst, (float(difference.mean()) / max(spread, 1e-9), how))
    holds = worst[0] < SURE
    axis = "proteins" if worst[1].startswith("rows") else "terms"
    says = "" if holds else f"{name}: " + MISALIGNED.format(axis=axis, how=worst[1])
    return Check(f"order of {name}", holds, {"proteins": len(own), "worst_z": round(worst[0], 2)}, says)


def _losses(logits: FloatArray, judged: Judged) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    losses = np.where(judged.known, np.logaddexp(0.0, values) - judged.labels * values, 0.0)
    count = judged.known.sum(axis=1)
    means: npt.NDArray[np.float64] = np.where(count > 0, losses.sum(axis=1) / np.maximum(count, 1), np.nan)
    return means


def _reordered(logits: FloatArray, judged: Judged) -> Iterator[tuple[str, FloatArray]]:
    """As if the matrix had been written in another order than the one claimed."""
    yield "rows shifted by one", np.roll(logits, 1, axis=0)
    yield "rows shifted by minus one", np.roll(logits, -1, axis=0)
    yield "columns shifted by one", np.roll(logits, 1, axis=1)
    yield "columns shifted by minus one", np.roll(logits, -1, axis=1)
    frequency = judged.labels.sum(axis=0)
    names = np.asarray(judged.terms, dtype=np.str_)
    for how, order in (("ids", np.argsort(names)), ("frequency", np.lexsort((names, -frequency)))):
        # Column j of the matrix is taken to hold the term that is j-th in that order.
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        yield f"columns in the order of {how}", logits[:, place]


def check_filled(name: str, train: npt.NDArray[np.floating], test: npt.NDArray[np.floating]) -> Check:
    """A modality is not empty in one part while it is filled in the other."""
    shares = {part: _empty_share(matrix) for part, matrix in (("train", train), ("test", test))}
    lower, upper = sorted(shares.values())
    holds = not (upper > EMPTY and lower < FILLED)
    part = max(shares, key=lambda key: shares[key])
    says = f"{name} is all zero for {shares[part]:.0%} of the {part} proteins, and not for the others"
    return Check(f"{name} is filled", holds, {f"zero_{key}": round(share, 4) for key, share in shares.items()}, says)


def _empty_share(matrix: npt.NDArray[np.floating]) -> float:
    if 0 in matrix.shape:
        return 0.0
    rows = np.unique(np.linspace(0, len(matrix) - 1, min(len(matrix), CHECKED_PROTEINS)).astype(np.int64))
    return float(np.mean(~np.asarray(matrix[rows]).any(axis=1)))


def check_test_labels(truth: sparse.csr_array, known: sparse.csr_array, train: sparse.csr_array) -> Check:
    """What the test truth states of a protein is not among the labels that were fitted on for the same protein.

    Args:
        truth: stated labels, boolean [test protein, ontology term].
        known: propagated labels that the test proteins had before, same shape.
        train: propagated labels of the train protein with the same id, same shape; empty rows where there is none.
    """
    stated = truth.astype(np.int8)
    pairs = int((stated - stated.multiply(known.astype(np.int8))).multiply(train).count_nonzero())
    says = f"{pairs} labels of the test truth are labels of the same proteins in data.train_terms"
    return Check("test labels stayed out", pairs == 0, {"pairs": pairs}, says)


def chosen_rows(rows: IntArray) -> IntArray:
    """At most CHECKED_PROTEINS of them, evenly spread."""
    if len(rows) <= CHECKED_PROTEINS:
        return rows
    return rows[np.linspace(0, len(rows) - 1, CHECKED_PROTEINS).astype(np.int64)]
