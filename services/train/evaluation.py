"""Fmax and its relatives per aspect, with the definitions of cafaeval 1.3.0, from sparse scores.

Definitions: P. Radivojac et al., Nature Methods 2013 (doi:10.1038/nmeth.2340); W. Clark and P. Radivojac,
Bioinformatics 2013 (doi:10.1093/bioinformatics/btt228); normalisation `cafa`. Where cafaeval's table has
both, S is taken from its information-weighted column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from services.train.evaluation_files import read_information, read_predictions, read_truth
from services.train.evaluation_monitors import calibration_errors_of_levels, rows_annotated
from shared.compiled import compiled
from shared.errors import DataError
from shared.ontology import ASPECTS, Ontology, propagate_labels, propagate_max

Array = npt.NDArray[Any]
Real = npt.NDArray[np.float64]
Propagation = Literal["fill", "max"]
EXACT = 2**24  # below it float32 counts without gaps


@dataclass(frozen=True, slots=True)
class Curve:
    """One aspect's averages at each threshold; every member is float64 [threshold].

    `covered` counts proteins with a prediction, `precision` is averaged over those, all else over the
    proteins annotated in the aspect; `misinformation` and `uncertainty` are the false positives and
    false negatives of a protein, as terms or, weighted, in bits.
    """

    thresholds: Real
    covered: Real
    coverage: Real
    true_positives: Real
    misinformation: Real
    uncertainty: Real
    precision: Real
    recall: Real

    @property
    def f(self) -> Real:
        """Harmonic mean of precision and recall; 0 where both are 0."""
        total = self.precision + self.recall
        return np.divide(2 * self.precision * self.recall, total, out=np.zeros_like(total), where=total > 0)

    @property
    def s(self) -> Real:
        """Semantic distance: sqrt(misinformation^2 + uncertainty^2)."""
        distance: Real = np.sqrt(self.misinformation**2 + self.uncertainty**2)
        return distance


@dataclass(frozen=True, slots=True)
class Metrics:
    """One aspect's figures; None where undefined (no annotated protein, no prediction, no weights).

    `smin` is in bits; `coverage` is the share of annotated proteins with a prediction at the lowest
    threshold; `aupr` is the area under the precision-recall points by the trapezoid rule; `n` counts
    annotated proteins.
    """

    fmax: float | None
    fmax_threshold: float | None
    fmax_w: float | None
    fmax_w_threshold: float | None
    smin: float | None
    aupr: float | None
    coverage: float | None
    n: int
    curve: Curve
    weighted: Curve | None


def evaluate(
    scores: sparse.csr_array,
    truth: sparse.csr_array,
    ontology: Ontology,
    information: npt.NDArray[np.floating] | None,
    *,
    propagation: Propagation = "fill",
    no_orphans: bool = True,
    threshold_step: float = 0.01,
) -> dict[str, Metrics]:
    """Compare scores with truth, per aspect.

    Args:
        scores: [protein, len(ontology)] in [0, 1], propagated or not.
        truth: boolean, same shape, propagated or not. A protein counts in the aspects in which it has a term.
        ontology: names the columns.
        information: information accretion per term in bits; terms without any (0, NaN) are left out of
            weighted figures. None leaves the weighted figures undefined.
        propagation: whether scores are propagated by maximum, or only into terms that have none.
        no_orphans: leave terms without parents, the roots, out of the unweighted figures.
        threshold_step: thresholds are the multiples of it below 1.

    Raises:
        DataError: shapes differ, or a score is negative or not a number.
    """
    evaluation = Evaluation(
        ontology, information, propagation=propagation, no_orphans=no_orphans, threshold_step=threshold_step
    )
    evaluation.add(scores, truth)
    return evaluation.metrics()


class Evaluation:
    """`evaluate` of proteins that come some at a time: what is kept of them does not grow with their number."""

    def __init__(
        self,
        ontology: Ontology,
        information: npt.NDArray[np.floating] | None,
        *,
        propagation: Propagation = "fill",
        no_orphans: bool = True,
        threshold_step: float = 0.01,
    ) -> None:
        self.ontology, self.fill = ontology, propagation == "fill"
        self.thresholds = np.arange(threshold_step, 1, threshold_step)
        counted = np.diff(ontology.parent_rows[0]) > 0 if no_orphans else np.ones(len(ontology), bool)
        bits = None if information is None else _finite(information)
        self._own = [ontology.aspects == number for number in range(len(ASPECTS))]
        # Per aspect the weights of terms: plain, then in bits where there are any.
        self._weights = [
            [np.where(own & counted, 1.0, 0.0), *([] if bits is None else [np.where(own, bits, 0.0)])]
            for own in self._own
        ]
        self._sums = np.zeros((len(ASPECTS), len(self._weights[0]), 6, len(self.thresholds)))
        self._proteins = [0] * len(ASPECTS)

    def add(self, scores: sparse.csr_array, truth: sparse.csr_array) -> None:
        """Count some proteins; arguments and errors as `evaluate`'s."""
        if scores.shape != truth.shape:
            raise DataError(f"scores of shape {scores.shape} cannot be compared with truth of shape {truth.shape}")
        predicted = propagate_max(_codes(scores, self.thresholds), self.ontology, fill=self.fill)
        self.add_codes(predicted, propagate_labels(truth, self.ontology))

    def add_codes(self, predicted: sparse.csr_array, annotated: sparse.csr_array) -> None:
        """The same of propagated codes (1 + the number of thresholds that a score reaches) and labels."""
        for number, own in enumerate(self._own):
            rows = rows_annotated(annotated, own)
            self._proteins[number] += len(rows)
            for place, weight in enumerate(self._weights[number]):
                # Protein after protein into the same sums, so that it does not matter which come together.
                _tally(
                    (predicted.indptr, predicted.indices, predicted.data),
                    (annotated.indptr, annotated.indices),
                    rows,
                    weight,
                    self._sums[number, place],
                )

    def metrics(self) -> dict[str, Metrics]:
        """Per aspect."""
        metrics = {}
        for aspect, sums, proteins in zip(ASPECTS, self._sums, self._proteins, strict=True):
            curve, *weighted = [_curve(of, proteins, self.thresholds) for of in sums]
            metrics[aspect] = _summary(curve, weighted[0] if weighted else None, proteins)
        return metrics


def _codes(scores: sparse.csr_array, thresholds: Real) -> sparse.csr_array:
    """Scores replaced by 1 + the number of thresholds they reach.

    Thresholds are compared in float64 before propagation, which keeps the order, so that a score on a
    threshold falls as it does in cafaeval. A score below the first one is still a score: code 1.
    """
    codes = _codes_of(scores.data.astype(np.float64), thresholds)
    return sparse.csr_array((codes, scores.indices, scores.indptr), shape=scores.shape)


def _codes_of(values: Real, thresholds: Real) -> npt.NDArray[np.float32]:
    if values.size and not values.min() >= 0:
        raise DataError("a score is negative or not a number")
    return np.where(values > 0, 1 + np.searchsorted(thresholds, values, side="right"), 0).astype(np.float32)


def _finite(information: npt.NDArray[np.floating]) -> Real:
    bits = np.nan_to_num(information.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    kept: Real = np.maximum(bits, 0.0)
    return kept


# Rows of a protein's contribution at each threshold.
COVERED, TRUE, FALSE, MISSED, PRECISION, RECALL = range(6)


@compiled
def _contribute(
    predicted: tuple[Array, Array, Array],
    truth: tuple[Array, Array],
    row: int,
    weight: Array,
    scratch: tuple[Array, Array],
) -> Array:
    """One protein at each threshold: covered, tp, fp, fn, precision, recall as float64 [6, count].

    `scratch` is (bool [term], float64 [2, count + 1]); the former must be, and is left, all False.
    """
    is_true, at = scratch
    pointer, index, codes = predicted
    truth_pointer, truth_index = truth
    count = at.shape[1] - 1
    found = np.zeros((6, count))
    total = 0.0
    for j in range(truth_pointer[row], truth_pointer[row + 1]):
        is_true[truth_index[j]] = True
        total += weight[truth_index[j]]
    at[:] = 0
    for j in range(pointer[row], pointer[row + 1]):
        reached = int(codes[j]) - 1
        at[0, reached] += weight[index[j]]
        if is_true[index[j]]:
            at[1, reached] += weight[index[j]]
    selected, correct = 0.0, 0.0
    for k in range(count - 1, -1, -1):
        selected += at[0, k + 1]
        correct += at[1, k + 1]
        if selected > 0:
            found[0, k] = 1
            found[4, k] = correct / selected
        found[1, k] = correct
        found[2, k] = selected - correct
        found[3, k] = total - correct
        if total > 0:
            found[5, k] = correct / total
    for j in range(truth_pointer[row], truth_pointer[row + 1]):
        is_true[truth_index[j]] = False
    return found


@compiled
def _tally(
    predicted: tuple[Array, Array, Array], truth: tuple[Array, Array], rows: Array, weight: Array, sums: Array
) -> None:
    """Add the proteins' contributions to `sums`, float64 [6, threshold], one by one."""
    scratch = (np.zeros(len(weight), np.bool_), np.zeros((2, sums.shape[1] + 1)))
    for row in rows:
        sums += _contribute(predicted, truth, row, weight, scratch)


@compiled
def _each(
    predicted: tuple[Array, Array, Array], truth: tuple[Array, Array], rows: Array, weight: Array, count: int
) -> Array:
    """The proteins' contributions, float64 [6, len(rows), count]."""
    found = np.zeros((6, len(rows), count))
    scratch = (np.zeros(len(weight), np.bool_), np.zeros((2, count + 1)))
    for place, row in enumerate(rows):
        found[:, place, :] = _contribute(predicted, truth, row, weight, scratch)
    return found


@dataclass(frozen=True, slots=True)
class ProteinCurves:
    """The annotated proteins' own figures in one aspect: `rows` [n] of the truth, the others [n, threshold].

    `used` says where an unweighted term is predicted: thresholds that no protein uses do not count, as in cafaeval.
    """

    rows: npt.NDArray[np.int64]
    used: Real
    covered: Real
    precision: Real
    recall: Real

    def fmax(self, counts: npt.NDArray[np.floating] | None = None) -> Real:
        """Fmax of samples of proteins, float64 [sample].

        Args:
            counts: [sample, n], how often each protein is drawn; None is every protein once.
        """
        drawn = np.ones((1, len(self.rows))) if counts is None else np.asarray(counts, np.float64)
        covered = drawn @ self.covered
        precision = np.divide(drawn @ self.precision, covered, out=np.zeros_like(covered), where=covered > 0)
        recall = drawn @ self.recall / np.maximum(drawn.sum(axis=1, keepdims=True), 1)
        total = precision + recall
        f = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
        best: Real = np.where(drawn @ self.used > 0, f, 0.0).max(axis=1, initial=0.0)
        return best

    def of(self, chosen: npt.NDArray[np.bool_]) -> ProteinCurves:
        """Only the proteins that `chosen` [row of the truth] names."""
        kept = chosen[self.rows]
        return ProteinCurves(
            self.rows[kept], self.used[kept], self.covered[kept], self.precision[kept], self.recall[kept]
        )


def protein_curves(
    scores: sparse.csr_array,
    truth: sparse.csr_array,
    ontology: Ontology,
    information: npt.NDArray[np.floating],
    *,
    propagation: Propagation = "fill",
    no_orphans: bool = True,
    threshold_step: float = 0.01,
) -> dict[str, ProteinCurves]:
    """Information-weighted precision and recall of every annotated protein, per aspect; arguments as `evaluate`'s."""
    thresholds = np.arange(threshold_step, 1, threshold_step)
    annotated = propagate_labels(truth, ontology)
    predicted = propagate_max(_codes(scores, thresholds), ontology, fill=propagation == "fill")
    counted = np.diff(ontology.parent_rows[0]) > 0 if no_orphans else np.ones(len(ontology), bool)
    bits = _finite(information)
    curves = {}
    for number, aspect in enumerate(ASPECTS):
        own = ontology.aspects == number
        rows = rows_annotated(annotated, own)
        plain, found = (
            _each(
                (predicted.indptr, predicted.indices, predicted.data),
                (annotated.indptr, annotated.indices),
                rows,
                weight,
                len(thresholds),
            )
            for weight in (np.where(own & counted, 1.0, 0.0), np.where(own, bits, 0.0))
        )
        curves[aspect] = ProteinCurves(rows, plain[COVERED], found[COVERED], found[PRECISION], found[RECALL])
    return curves


def _curve(sums: Array, proteins: int, thresholds: Real) -> Curve:
    covered, true, false, missed, precision, recall = sums
    count = max(1, proteins)
    return Curve(
        thresholds=thresholds,
        covered=covered,
        coverage=covered / count,
        true_positives=true / count,
        misinformation=false / count,
        uncertainty=missed / count,
        precision=np.divide(precision, covered, out=np.zeros_like(covered), where=covered > 0),
        recall=recall / count,
    )


def _summary(curve: Curve, weighted: Curve | None, proteins: int) -> Metrics:
    # Coverage falls with the threshold; cafaeval drops the thresholds that no protein reaches.
    used = int(np.count_nonzero(curve.coverage > 0))
    if not proteins:
        return Metrics(None, None, None, None, None, None, None, 0, curve, weighted)
    if not used:
        return Metrics(0.0, None, None if weighted is None else 0.0, None, None, None, 0.0, proteins, curve, weighted)
    best = int(np.argmax(curve.f[:used]))
    best_w = None if weighted is None else int(np.argmax(weighted.f[:used]))
    return Metrics(
        fmax=float(curve.f[best]),
        fmax_threshold=float(curve.thresholds[best]),
        fmax_w=None if weighted is None or best_w is None else float(weighted.f[best_w]),
        fmax_w_threshold=None if best_w is None else float(curve.thresholds[best_w]),
        smin=None if weighted is None else float(weighted.s[:used].min()),
        aupr=_area(curve.recall[:used], curve.precision[:used]),
        coverage=float(curve.coverage[0]),
        n=proteins,
        curve=curve,
        weighted=weighted,
    )


def _area(recall: Real, precision: Real) -> float:
    # Recall falls as the threshold rises.
    return float(np.trapezoid(precision[::-1], recall[::-1]))


def metric_keys(metrics: Mapping[str, Metrics]) -> dict[str, float | None]:
    """Figures by their agreed keys: fmax/MF, fmax_w/MF, smin/MF, aupr/MF, coverage/MF, ..."""
    names = ("fmax", "fmax_w", "smin", "aupr", "coverage")
    return {f"{name}/{aspect}": getattr(of, name) for name in names for aspect, of in metrics.items()}


def evaluate_files(
    pred: Path,
    truth: Path,
    obo: Path,
    ia: Path | None = None,
    *,
    propagation: Propagation = "fill",
    no_orphans: bool = True,
    threshold_step: float = 0.01,
) -> dict[str, float | None]:
    """Compare a prediction file with a truth file; the figures by their keys, `ece/<aspect>` among them.

    Args:
        pred: protein, term, score; no header; may be gzipped. Proteins without truth are skipped.
        truth: protein, term, ...; a header is allowed; may be gzipped.
        obo: the ontology.
        ia: term, information accretion in bits; None leaves weighted figures undefined.
        propagation: see `evaluate`.
        no_orphans: see `evaluate`.
        threshold_step: see `evaluate`.

    Raises:
        MissingInput: a file is not there.
        DataError: a file is not what it should be; with the line number.
    """
    ontology = Ontology.parse(obo)
    ids, labels = read_truth(truth, ontology)
    scores = read_predictions(pred, ids, ontology)
    information = None if ia is None else read_information(ia, ontology)
    evaluation = Evaluation(ontology, information, no_orphans=no_orphans, threshold_step=threshold_step)
    # Files have few different scores. Their places in order are propagated instead of them, once for both figures.
    levels, place = np.unique(scores.data, return_inverse=True)
    exact = np.float32 if len(levels) < EXACT else np.float64
    ranks = sparse.csr_array(((place + 1).astype(exact), scores.indices, scores.indptr), shape=scores.shape)
    del scores, place
    predicted = propagate_max(ranks, ontology, fill=propagation == "fill")
    annotated = propagate_labels(labels, ontology)
    predicted.data -= 1
    errors = calibration_errors_of_levels(predicted, levels, annotated, ontology, no_orphans=no_orphans)
    predicted.data = _codes_of(levels, evaluation.thresholds)[predicted.data.astype(np.int32)]
    evaluation.add_codes(predicted, annotated)
    return {**metric_keys(evaluation.metrics()), **{f"ece/{aspect}": error for aspect, error in errors.items()}}
