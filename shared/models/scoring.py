"""From logits to the scores that a user sees: calibrated, with rare terms, consistent over the GO graph.

Stage 9, the validation scoring and a loaded bundle all score through this file, so that they agree.
Every function treats proteins independently: splitting rows into blocks changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.errors import DataError
from shared.models.calibration import BetaCalibration
from shared.models.features import FloatArray, Hits, IntArray
from shared.ontology import ASPECTS, Ontology, propagate_blend

BoolArray = npt.NDArray[np.bool_]
Calibration = Mapping[str, Mapping[str, float]]  # aspect -> the fields of a BetaCalibration

IDENTITY: Calibration = {}


def assemble_scores(
    logits: npt.NDArray[np.floating],
    terms: Sequence[str],
    calibration: Calibration,
    ontology: Ontology,
    rare: sparse.csr_array | None = None,
    *,
    floor: float = 0.0,
    descendant_share: float = 1.0,
) -> sparse.csr_array:
    """Final scores of some proteins over the whole ontology.

    Args:
        logits: [protein, len(terms)].
        terms: the columns of `logits`, live terms in any order.
        calibration: beta calibration per aspect; an absent aspect is not changed.
        ontology: names the columns of the result.
        rare: scores [protein, len(ontology)] for terms outside `terms`; others are ignored.
        floor: scores up to this are left out; with a `descendant_share` of 1 it changes no score that is kept.
        descendant_share: see `propagate_blend`.

    Returns:
        CSR float32 [protein, len(ontology)], values in (0, 1], every parent at least its children.

    Raises:
        DataError: a term is unknown, shapes differ, or a logit is not a number.
    """
    own = own_scores(logits, terms, calibration, ontology, rare, floor=floor)
    return propagate_blend(own, ontology, descendant_share)


def own_scores(
    logits: npt.NDArray[np.floating],
    terms: Sequence[str],
    calibration: Calibration,
    ontology: Ontology,
    rare: sparse.csr_array | None = None,
    *,
    floor: float = 0.0,
) -> sparse.csr_array:
    """As `assemble_scores`, before propagation: what each term scores on its own evidence."""
    columns = term_columns(terms, ontology)
    if logits.ndim != 2 or logits.shape[1] != len(terms):
        raise DataError(f"logits of shape {logits.shape} for {len(terms)} terms")
    if np.isnan(logits).any():
        raise DataError("a logit is not a number")
    probabilities = _calibrated(logits, ontology.aspects[columns], calibration)
    order = np.argsort(columns)
    row, place = np.nonzero(probabilities[:, order] > floor)
    values = probabilities[row, order[place]]
    pointer = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(logits)))])
    shape = (len(logits), len(ontology))
    scores = sparse.csr_array((values, columns[order][place], pointer), shape=shape)
    return scores if rare is None else _with_rare(scores, rare, columns, floor)


def term_columns(terms: Sequence[str], ontology: Ontology) -> IntArray:
    """Where `terms` are in the ontology.

    Raises:
        DataError: a term is not there, or stands twice.
    """
    unknown = [term for term in terms if term not in ontology.index]
    if unknown:
        raise DataError(
            f"{len(unknown)} terms are not in GO {ontology.version}, for example {unknown[0]}",
            remedy="Use the ontology that the model was fitted with",
        )
    columns = np.array([ontology.index[term] for term in terms], np.int64)
    if len(np.unique(columns)) != len(columns):
        raise DataError("a term stands twice among the columns")
    return columns


def _calibrated(
    logits: npt.NDArray[np.floating], aspects: npt.NDArray[np.int8], calibration: Calibration
) -> FloatArray:
    probabilities = np.empty(logits.shape, np.float32)
    for number, aspect in enumerate(ASPECTS):
        own = aspects == number
        probabilities[:, own] = BetaCalibration(**calibration.get(aspect, {})).probabilities(logits[:, own])
    return probabilities


def _with_rare(scores: sparse.csr_array, rare: sparse.csr_array, covered: IntArray, floor: float) -> sparse.csr_array:
    if rare.shape != scores.shape:
        raise DataError(f"rare scores of shape {rare.shape} for scores of shape {scores.shape}")
    outside = np.ones(scores.shape[1], bool)
    outside[covered] = False
    kept = outside[rare.indices] & (rare.data > floor)
    row = np.repeat(np.arange(rare.shape[0]), np.diff(rare.indptr))[kept]
    values = np.minimum(rare.data[kept], 1).astype(np.float32)
    extra = sparse.csr_array((values, (row, rare.indices[kept])), shape=rare.shape)
    # Disjoint columns: the sum only merges the two.
    return sparse.csr_array(scores + extra)


def vote_all_terms(
    hits: Hits,
    labels: sparse.csr_array,
    reference: BoolArray,
    rows: IntArray,
    ontology: Ontology,
    *,
    folds: IntArray | None = None,
    columns: BoolArray | None = None,
    confidence: float = 1.0,
    identity_power: float = 0.0,
    prior_weight: float = 0.0,
) -> sparse.csr_array:
    """Homology vote over every term of the ontology: the scores of terms that no model was fitted on.

    score(term) = confidence x weight of the hits that have the term / (weight of the hits that are
    annotated in its aspect (of the others nothing is known) + prior weight): the prior of a rare term is 0.

    Args:
        hits: hits of every query; targets are rows of `labels`.
        labels: propagated boolean CSR [target, len(ontology)].
        reference: [target], which targets may vote.
        rows: query rows to score.
        ontology: names the columns.
        folds: [protein], for queries that are targets themselves: a query's own fold has no vote.
        columns: [term], which terms to score; None scores all.
        confidence: in (0, 1], what an undisputed vote is worth.
        identity_power: see `Hits.weights`.
        prior_weight: see `HomologyVote`.

    Returns:
        CSR float32 [len(rows), len(ontology)]; proteins without a hit have empty rows.
    """
    own = hits.among(rows)
    query, target = own.queries(), own.target
    voting = reference[target]
    if folds is not None:
        voting &= folds[rows[query]] != folds[target]
    # Only the voters' labels are touched, so that a block costs what its hits cost.
    voters, place = np.unique(target[voting], return_inverse=True)
    labels = labels[voters]
    weight = own.weights(identity_power)[voting]
    given = sparse.csr_array((weight, (query[voting], place)), shape=(len(rows), len(voters)))
    member = np.zeros((len(ontology), len(ASPECTS)), np.float32)
    member[np.arange(len(ontology)), ontology.aspects] = 1
    known = ((labels.astype(np.float32) @ member) > 0).astype(np.float32)  # [voter, aspect]
    total = given @ known + np.float32(prior_weight)
    votes = sparse.csr_array(given @ _masked(labels, columns))
    votes.sort_indices()
    row = np.repeat(np.arange(len(rows)), np.diff(votes.indptr))
    votes.data = (np.float32(confidence) * votes.data / total[row, ontology.aspects[votes.indices]]).astype(np.float32)
    return votes


def _masked(labels: sparse.csr_array, columns: BoolArray | None) -> sparse.csr_array:
    """Labels as float32, with only the wanted columns filled."""
    if columns is None:
        return labels.astype(np.float32)
    kept = columns[labels.indices]
    pointer = np.concatenate([[0], np.cumsum(kept)])[labels.indptr]
    return sparse.csr_array((np.ones(int(kept.sum()), np.float32), labels.indices[kept], pointer), shape=labels.shape)


def provenance(own: npt.NDArray[np.floating], ontology: Ontology, term: str) -> tuple[str, ...]:
    """The path from a term down to the one whose score it has after propagation.

    Args:
        own: [len(ontology)] scores before propagation (one dense row of `own_scores`).
        ontology: names the entries.
        term: a live term.

    Returns:
        `term` first, the contributor last; one entry where the term's own score is the highest. Among
        equal contributors the shortest path counts, then the lowest index.
    """
    start = ontology.index[term]
    reached: dict[int, int | None] = {start: None}
    queue = [start]
    best = start
    for node in queue:  # breadth first, and grows while it is read
        if own[node] > own[best]:
            best = node
        for child in ontology.children[node]:
            if child not in reached:
                reached[child] = node
                queue.append(child)
    path: list[str] = []
    step: int | None = best
    while step is not None:
        path.append(ontology.terms[step])
        step = reached[step]
    return tuple(reversed(path))
