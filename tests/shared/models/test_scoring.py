from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import DataError
from shared.models.features import Hits
from shared.models.scoring import IDENTITY, assemble_scores, own_scores, provenance, vote_all_terms
from shared.ontology import ASPECTS, Ontology, propagate_blend, propagate_labels, propagate_max
from tests.fakes.ontologies import csr, make_ontology, ontologies, score_matrices

laws = settings(deadline=None, max_examples=50)
CALIBRATION = {"MF": {"a": 0.7, "b": 0.7, "c": -0.5}, "BP": {"a": 1.3, "b": 1.3, "c": 0.2}}  # Platt scaling


@st.composite
def scored(draw: st.DrawFn) -> tuple[Ontology, list[str], np.ndarray, np.ndarray]:
    """An ontology, some of its terms in any order, logits of them, and rare scores of all terms."""
    ontology = draw(ontologies())
    terms = draw(st.lists(st.sampled_from(ontology.terms), unique=True, min_size=1))
    logits = draw(score_matrices(len(terms), values=st.integers(-40, 40).map(lambda k: k / 4)))
    return ontology, terms, logits.astype(np.float32), draw(score_matrices(len(ontology)))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


@laws
@given(scored())
def test_scores_are_calibrated_completed_and_consistent(
    case: tuple[Ontology, list[str], np.ndarray, np.ndarray],
) -> None:
    ontology, terms, logits, rare = case
    expected = rare.copy()
    for place, term in enumerate(terms):
        column = ontology.index[term]
        scale = CALIBRATION.get(ASPECTS[ontology.aspects[column]], {"a": 1.0, "c": 0.0})
        expected[:, column] = sigmoid(scale["a"] * logits[:, place].astype(float) + scale["c"])
    for child in reversed(range(len(ontology))):
        for parent in ontology.parents[child]:
            expected[:, parent] = np.maximum(expected[:, parent], expected[:, child])
    scores = assemble_scores(logits, terms, CALIBRATION, ontology, csr(rare))
    assert scores.toarray() == pytest.approx(expected, rel=1e-6)
    assert scores.dtype == np.float32
    assert scores.data.min(initial=1) > 0
    assert scores.data.max(initial=0) <= 1


@laws
@given(scored(), st.integers(1, 3))
def test_blocks_and_column_order_change_no_bit(
    case: tuple[Ontology, list[str], np.ndarray, np.ndarray], cut: int
) -> None:
    ontology, terms, logits, rare = case
    whole = assemble_scores(logits, terms, CALIBRATION, ontology, csr(rare)).toarray()
    parts = [
        assemble_scores(logits[s], terms, CALIBRATION, ontology, csr(rare[s])).toarray()
        for s in (slice(cut), slice(cut, None))
    ]
    assert np.array_equal(np.concatenate(parts), whole)
    turned = assemble_scores(logits[:, ::-1], terms[::-1], CALIBRATION, ontology, csr(rare)).toarray()
    assert np.array_equal(turned, whole)


@laws
@given(scored(), st.sampled_from([0.1, 0.5, 0.9]))
def test_a_floor_only_leaves_out(case: tuple[Ontology, list[str], np.ndarray, np.ndarray], floor: float) -> None:
    ontology, terms, logits, rare = case
    whole = assemble_scores(logits, terms, IDENTITY, ontology, csr(rare)).toarray()
    floored = assemble_scores(logits, terms, IDENTITY, ontology, csr(rare), floor=floor).toarray()
    assert np.array_equal(floored, np.where(whole > np.float32(floor), whole, 0))


@laws
@given(scored())
def test_provenance_ends_where_the_score_comes_from(case: tuple[Ontology, list[str], np.ndarray, np.ndarray]) -> None:
    ontology, terms, logits, rare = case
    own = own_scores(logits, terms, IDENTITY, ontology, csr(rare))
    final = propagate_max(own, ontology).toarray()
    for row, scores in enumerate(own.toarray()):
        for term in ontology.terms:
            path = [ontology.index[t] for t in provenance(scores, ontology, term)]
            assert path[0] == ontology.index[term]
            assert all(parent in ontology.parents[child] for parent, child in itertools.pairwise(path))
            assert scores[path[-1]] == final[row, path[0]]
            assert len(path) == 1 or scores[path[-1]] > scores[path[0]]


def test_wrong_input_is_refused() -> None:
    ontology = make_ontology([[], [0]], [0, 0])
    with pytest.raises(DataError, match="not in GO"):
        assemble_scores(np.zeros((1, 1), np.float32), ["GO:9999999"], IDENTITY, ontology)
    with pytest.raises(DataError, match="twice"):
        assemble_scores(np.zeros((1, 2), np.float32), ["GO:0000001"] * 2, IDENTITY, ontology)
    with pytest.raises(DataError, match="shape"):
        assemble_scores(np.zeros((1, 2), np.float32), ["GO:0000001"], IDENTITY, ontology)
    with pytest.raises(DataError, match="not a number"):
        assemble_scores(np.full((1, 1), np.nan, np.float32), ["GO:0000001"], IDENTITY, ontology)
    with pytest.raises(DataError, match="rare scores of shape"):
        assemble_scores(np.zeros((1, 1), np.float32), ["GO:0000001"], IDENTITY, ontology, csr(np.zeros((2, 2))))


HITS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(20, 400)), max_size=12, unique_by=lambda h: h[:2]
)


@laws
@given(ontologies(), HITS, st.data())
def test_votes_are_their_definition(ontology: Ontology, found: list[tuple[int, int, int]], data: st.DataObject) -> None:
    labels = propagate_labels(csr(data.draw(score_matrices(len(ontology), rows=5)) > 0, np.bool_), ontology)
    reference = np.array(data.draw(st.lists(st.booleans(), min_size=5, max_size=5)))
    columns = np.array(data.draw(st.lists(st.booleans(), min_size=len(ontology), max_size=len(ontology))))
    folds = np.array([0, 1, 0, 1, -1])
    frame = pd.DataFrame(found, columns=["query", "target", "bits"]).assign(fident=1.0, qcov=1.0, tcov=1.0)
    rows = np.array([3, 0, 1])
    by_folds = data.draw(st.booleans())
    prior_weight = data.draw(st.sampled_from([0.0, 50.0]))
    votes = vote_all_terms(
        Hits.from_frame(frame, 4),
        labels,
        reference,
        rows,
        ontology,
        folds=folds if by_folds else None,
        columns=columns,
        confidence=0.5,
        prior_weight=prior_weight,
    ).toarray()
    dense = labels.toarray()
    annotated = np.stack([dense[:, ontology.aspects == a].any(axis=1) for a in range(3)], axis=1)
    for place, row in enumerate(rows):
        voters = [
            (t, b) for q, t, b in found if q == row and reference[t] and not (by_folds and folds[t] == folds[row])
        ]
        for term in range(len(ontology)):
            known = sum(b for t, b in voters if annotated[t, ontology.aspects[term]])
            having = sum(b for t, b in voters if dense[t, term]) * columns[term]
            assert votes[place, term] == pytest.approx(0.5 * having / (known + prior_weight) if known else 0)


SHARES = st.sampled_from([0.25, 0.5, 0.7, 1.0])


def lowest_by_loop(ontology: Ontology, own: np.ndarray, row: int, term: int) -> float | None:
    found = [own[row, i] for i in ontology.ancestors(term) if own[row, i] > 0]
    return min(found) if found else None


@laws
@given(scored(), SHARES)
def test_a_blend_is_its_definition(case: tuple[Ontology, list[str], np.ndarray, np.ndarray], share: float) -> None:
    ontology, terms, logits, rare = case
    own = own_scores(logits, terms, IDENTITY, ontology, csr(rare))
    highest, dense = propagate_max(own, ontology).toarray(), own.toarray()
    found = assemble_scores(logits, terms, IDENTITY, ontology, csr(rare), descendant_share=share).toarray()
    for row, term in np.ndindex(*found.shape):
        low = lowest_by_loop(ontology, dense, row, term)
        high = highest[row, term]
        wanted = high if low is None or high == 0 else share * high + (1 - share) * min(low, high)
        assert found[row, term] == pytest.approx(wanted, rel=1e-6)


@laws
@given(scored(), SHARES)
def test_blended_scores_are_consistent_and_blending_again_changes_nothing(
    case: tuple[Ontology, list[str], np.ndarray, np.ndarray], share: float
) -> None:
    ontology, terms, logits, rare = case
    found = assemble_scores(logits, terms, IDENTITY, ontology, csr(rare), descendant_share=share)
    dense = found.toarray()
    for child, parents in enumerate(ontology.parents):
        for parent in parents:
            assert (dense[:, parent] >= dense[:, child]).all()
    assert found.data.min(initial=1) > 0
    assert found.data.max(initial=0) <= 1
    again = propagate_blend(found, ontology, share).toarray()
    np.testing.assert_allclose(again, dense, rtol=3e-7)
    assert np.array_equal(propagate_max(found, ontology).toarray(), dense)


@laws
@given(scored())
def test_a_share_of_one_is_the_maximum(case: tuple[Ontology, list[str], np.ndarray, np.ndarray]) -> None:
    ontology, terms, logits, rare = case
    own = own_scores(logits, terms, IDENTITY, ontology, csr(rare))
    assert np.array_equal(propagate_blend(own, ontology, 1.0).toarray(), propagate_max(own, ontology).toarray())


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    ontology = make_ontology([[], [0]], [0, 0])
    with pytest.raises(DataError, match="share"):
        propagate_blend(csr(np.ones((1, 2))), ontology, share)
