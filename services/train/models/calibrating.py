"""Probabilities and records of the finished stacker, from scores of proteins that it was not fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.models.calibration import (
    BetaCalibration,
    Calibration,
    LogitCounts,
    expected_calibration_error,
    fit_beta,
    log_loss,
    top_scores,
)
from shared.models.features import FloatArray, IntArray
from shared.nn.stacker import StackerLayout
from shared.ontology import ASPECTS

BLOCK_ROWS = 2048
Matrix = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Scored:
    """Train proteins with labels and stacker logits, both [protein, stacker term]."""

    layout: StackerLayout
    logits: Matrix
    labels: sparse.csr_array
    annotated: npt.NDArray[np.bool_]  # [protein, aspect]

    def among(self, rows: IntArray, aspect: str) -> IntArray:
        """Those of `rows` that are annotated in the aspect: of the others nothing is known."""
        known: IntArray = rows[self.annotated[rows, ASPECTS.index(aspect)]]
        return known


def calibrate(scored: Scored, fit_rows: IntArray, roots: frozenset[str], quantile: float) -> Calibration:
    """Fit probabilities and the low-confidence threshold to the out-of-fold logits of the fit rows."""
    beta: dict[str, BetaCalibration] = {}
    thresholds: dict[str, float | None] = {}
    terms = np.asarray(scored.layout.terms, dtype=np.str_)
    for aspect in ASPECTS:
        columns = scored.layout.of_aspect(aspect)
        rows = scored.among(fit_rows, aspect)
        beta[aspect] = fit_beta(count_pairs(scored.logits, scored.labels, rows, (columns, columns)))
        proper = columns[~np.isin(terms[columns], sorted(roots))]
        tops = _tops(scored.logits, rows, proper, beta[aspect])
        thresholds[aspect] = float(np.quantile(tops, quantile)) if tops.size else None
    return Calibration(beta, thresholds)


def _tops(logits: Matrix, rows: IntArray, columns: IntArray, beta: BetaCalibration) -> FloatArray:
    if len(columns) == 0 or len(rows) == 0:
        return np.zeros(0, np.float32)
    # Calibration keeps the order, so the top may be found before it.
    tops = np.concatenate([top_scores(logits[block][:, columns].astype(np.float32)) for block in _blocks(rows)])
    return beta.probabilities(tops)


def count_pairs(
    logits: Matrix, labels: sparse.csr_array, rows: IntArray, columns: tuple[IntArray, IntArray]
) -> LogitCounts:
    """Count the pairs of some proteins and terms; `columns` are the terms' in `logits` and in `labels`."""
    table = LogitCounts()
    for block in _blocks(rows):
        table.add(logits[block][:, columns[0]], labels[block][:, columns[1]].toarray() > 0)
    return table


def held_out_record(
    scored: Scored, rows: IntArray, level1: Mapping[str, Matrix], calibration: Calibration
) -> dict[str, dict[str, Any]]:
    """Per aspect, log loss (nats per pair) and calibration error of the stacker and of each level-1 model.

    Args:
        scored: the finished stacker's scores.
        rows: validation proteins; they only measure, nothing is chosen by them.
        level1: model -> logits [protein, level-1 term].
        calibration: fitted to other proteins.
    """
    record: dict[str, dict[str, Any]] = {}
    for aspect in ASPECTS:
        known, columns = scored.among(rows, aspect), scored.layout.of_aspect(aspect)
        level1_columns = np.asarray(scored.layout.columns, np.int64)[columns]
        pairs = count_pairs(scored.logits, scored.labels, known, (columns, columns))
        record[aspect] = {
            "proteins": len(known),
            "loss_stacker": log_loss(pairs, BetaCalibration()),
            "loss_calibrated": log_loss(pairs, calibration.beta[aspect]),
            "ece_stacker": expected_calibration_error(pairs, BetaCalibration()),
            "ece_calibrated": expected_calibration_error(pairs, calibration.beta[aspect]),
            "loss_level1": {
                name: log_loss(count_pairs(matrix, scored.labels, known, (level1_columns, columns)), BetaCalibration())
                for name, matrix in level1.items()
            },
        }
    return record


def _blocks(rows: IntArray) -> Iterator[IntArray]:
    for start in range(0, len(rows), BLOCK_ROWS):
        yield rows[start : start + BLOCK_ROWS]
