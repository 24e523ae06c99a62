from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from services.train.submission import round_significant, submitted, validate_submission, write_submission
from shared.config import SubmissionConfig
from shared.errors import DataError, MissingInput
from shared.ontology import Ontology, propagate_max
from tests.fakes.ontologies import csr, make_ontology, ontologies, score_matrices

laws = settings(deadline=None, max_examples=60)


@laws
@given(st.lists(st.floats(2**-20, 1, width=32), min_size=1), st.integers(1, 3))
def test_rounding_keeps_order_and_is_what_its_text_says(values: list[float], figures: int) -> None:
    exact = np.sort(np.array(values, np.float32))
    rounded = round_significant(exact, figures)
    assert np.all(np.diff(rounded) >= 0)
    assert [float(f"{value:.{figures}g}") for value in rounded] == rounded.tolist()
    assert np.all(np.abs(rounded - exact) <= exact * 10.0 ** (1 - figures) / 2 * (1 + 1e-9))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Ontology, np.ndarray, int]:
    ontology = draw(ontologies())
    scores = draw(score_matrices(len(ontology), values=st.floats(2**-17, 1, width=32)))
    scores[:, 0] = np.maximum(scores[:, 0], 1e-4)  # a protein without any score has no place in a submission
    return ontology, scores, draw(st.integers(1, 8))


@laws
@given(cases())
def test_every_submission_passes_its_own_rules(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[Ontology, np.ndarray, int]
) -> None:
    ontology, dense, most = case
    config = SubmissionConfig(max_terms_per_protein=most)
    scores = propagate_max(csr(dense), ontology)
    chosen = submitted(scores, config)
    path = tmp_path_factory.mktemp("submission") / "submission.tsv"
    ids = ["P1", "P2", "P3", "P4"]
    lines = write_submission(path, [(ids[:3], chosen[:3]), (ids[3:], chosen[3:])], ontology)
    assert validate_submission(path, ids, ontology, most) == {
        "proteins": 4,
        "rows": lines,
        "terms": len(np.unique(chosen.indices)),
    }
    for whole, kept in zip(scores.toarray(), chosen.toarray(), strict=True):
        rounded = round_significant(np.maximum(whole, 1e-9), 3)  # the best are chosen after rounding
        left_out = rounded[(kept == 0) & (rounded >= config.min_score)]
        assert left_out.max(initial=0) <= rounded[kept > 0].min() or not np.count_nonzero(kept)
        assert np.count_nonzero(kept) == most or not len(left_out)


@laws
@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 9))
def test_the_best_terms_are_those_of_a_full_sort(scores: list[int], most: int, least: int) -> None:
    """Ties at every place: scores are a few different numbers."""
    values = np.array(scores) / 12
    config = SubmissionConfig(max_terms_per_protein=most, min_score=max(0.0001, least / 12))
    found = submitted(sparse.csr_array(values[None, :]), config).toarray()[0]
    rounded = np.where(values > 0, round_significant(np.maximum(values, 1e-9), 3), 0)
    order = np.lexsort((np.arange(len(values)), -rounded))
    order = order[rounded[order] > 0][:most]
    enough = [term for term in order if rounded[term] >= config.min_score] or order[:1].tolist()
    expected = np.zeros(len(values))
    expected[enough] = rounded[enough]
    assert found.tolist() == expected.tolist()


def test_a_protein_without_any_high_score_keeps_its_best_term(tmp_path: Path) -> None:
    ontology = make_ontology([[], [0], [1]], [0, 0, 0])
    chosen = submitted(
        propagate_max(csr(np.array([[0, 0.00012345, 0.0001], [0, 0, 0.9]])), ontology), SubmissionConfig()
    )
    assert chosen.toarray().tolist() == [[0.000123, 0, 0], [0.9, 0.9, 0.9]]
    with pytest.raises(DataError, match="no score for P1"):
        write_submission(tmp_path / "s.tsv", [(["P1"], csr(np.zeros((1, 3))))], ontology)


GOOD = "P1\tGO:0000000\t0.9\nP1\tGO:0000001\t0.9\nP1\tGO:0000002\t0.25\nP2\tGO:0000000\t1\n"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        pytest.param("0.25\n", "0.25\n\n", 4, "three columns", id="blank line"),
        pytest.param("P2\tGO:0000000\t1\n", "P2\tGO:0000000\t1", 4, "line end", id="cut"),
        pytest.param("\t0.25", "", 3, "three columns", id="two columns"),
        pytest.param("0.25", "zero", 3, "not a score", id="word"),
        pytest.param("0.25", "0", 3, "not in (0, 1]", id="zero"),
        pytest.param("0.25", "nan", 3, "not in (0, 1]", id="nan"),
        pytest.param("\t1\n", "\t1.01\n", 4, "not in (0, 1]", id="above one"),
        pytest.param("0.25", "0.2501", 3, "significant", id="figures"),
        pytest.param("0.25", "0.91", 3, "its parent GO:0000001 scores 0.9", id="inconsistent"),
        pytest.param("P1\tGO:0000001\t0.9\n", "", 2, "its parent GO:0000001 is missing", id="no parent"),
        pytest.param("GO:0000002", "GO:9999999", 3, "not a live term", id="unknown term"),
        pytest.param("GO:0000002", "GO:0000001", 3, "twice", id="twice"),
        pytest.param("P2", "P3", 4, "P3 where P2 should be", id="other protein"),
        pytest.param("P2\tGO:0000000\t1\n", "", 3, "P2 is missing", id="protein missing"),
        pytest.param("\t1\n", "\t1\nP3\tGO:0000000\t1\n", 5, "P3 after the last", id="one too many"),
        pytest.param("\t1\n", "\t1\nP1\tGO:0000000\t1\n", 5, "P1 after the last", id="protein again"),
    ],
)
def test_a_broken_rule_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    ontology = make_ontology([[], [0], [1]], [0, 0, 0])
    path = tmp_path / "s.tsv"
    path.write_text(GOOD)
    assert validate_submission(path, ["P1", "P2"], ontology) == {"proteins": 2, "rows": 4, "terms": 3}
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        validate_submission(path, ["P1", "P2"], ontology)
    assert words in caught.value.what
    assert caught.value.where == f"{path}:{line}"


def test_too_many_terms_and_no_file(tmp_path: Path) -> None:
    ontology = make_ontology([[], [0], [1]], [0, 0, 0])
    (tmp_path / "s.tsv").write_text(GOOD)
    with pytest.raises(DataError, match="at most 2"):
        validate_submission(tmp_path / "s.tsv", ["P1", "P2"], ontology, max_terms=2)
    with pytest.raises(MissingInput):
        validate_submission(tmp_path / "absent.tsv", [], ontology)
