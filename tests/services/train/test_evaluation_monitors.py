from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from services.train.evaluation import Evaluation, evaluate, metric_keys
from services.train.evaluation_monitors import (
    CalibrationCounts,
    Monitors,
    calibration_error,
    calibration_errors,
    monitors,
    true_entries,
)
from services.train.evaluation_report import figures
from shared.logs import check_keys
from shared.ontology import ASPECTS, Ontology, propagate_labels, propagate_max
from tests.fakes.ontologies import csr, make_ontology, ontologies, score_matrices

laws = settings(deadline=None, max_examples=40)


def test_calibration_error_by_hand() -> None:
    # 40 pairs at 0.5 of which 20 are true, 20 at 0.2 of which 10 are true, and unread low ones
    scores = np.r_[np.full(40, 0.5), np.full(20, 0.2), np.full(15, 0.01)][None, :]
    labels = np.r_[np.tile([0, 1], 20), np.tile([0, 1], 10), np.ones(15)][None, :]
    assert calibration_error(csr(scores, np.float64), csr(labels, np.bool_)) == pytest.approx(20 * 0.3 / 60)
    assert calibration_error(csr(np.full((1, 3), 0.01)), csr(np.ones((1, 3)), np.bool_)) is None


def test_calibration_is_measured_on_annotated_proteins_and_without_roots() -> None:
    ontology = make_ontology([[], [0], [], [2]], [0, 0, 1, 1])
    scores = csr(np.array([[0.9, 0.6, 0.9, 0.9], [0.9, 0.5, 0.8, 0.7]]), np.float64)
    truth = csr(np.array([[1, 1, 0, 0], [1, 0, 1, 1]]), np.bool_)
    errors = calibration_errors(scores, truth, ontology)
    assert errors == {"MF": pytest.approx((0.4 + 0.5) / 2), "BP": pytest.approx(0.3), "CC": None}


@laws
@given(st.lists(st.tuples(st.integers(1, 20), st.booleans()), min_size=1, max_size=60), st.randoms())
def test_calibration_error_does_not_depend_on_order(pairs: list[tuple[int, bool]], random: object) -> None:
    def error(listed: list[tuple[int, bool]]) -> float | None:
        return calibration_error(
            csr(np.array([[k / 20 for k, _ in listed]]), np.float64), csr(np.array([[t for _, t in listed]]), np.bool_)
        )

    shuffled = pairs.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert error(shuffled) == pytest.approx(error(pairs), abs=1e-12)
    assert 0 <= (error(pairs) or 0) <= 1


@laws
@given(ontologies(), st.data())
def test_monitors_equal_dense_arithmetic(ontology: Ontology, data: st.DataObject) -> None:
    scores = propagate_max(csr(data.draw(score_matrices(len(ontology)))), ontology)
    truth = propagate_labels(csr(data.draw(score_matrices(len(ontology))) > 0, np.bool_), ontology)
    columns = np.array(sorted(data.draw(st.sets(st.integers(0, len(ontology) - 1), min_size=1))))
    taxa = np.array([9606, 9606, 0, 10090])
    keys = monitors(scores, truth, ontology, columns=columns, taxa=taxa)
    check_keys(keys)
    s, y = scores.toarray().astype(float), truth.toarray().astype(float)
    errors: list[float] = []
    groups: list[int] = []
    for number, aspect in enumerate(ASPECTS):
        rows = y[:, ontology.aspects == number].any(axis=1)
        block = np.ix_(rows, columns[ontology.aspects[columns] == number])
        a, b = s[block].ravel(), y[block].ravel()
        errors += np.abs(a - b).tolist()
        groups += np.repeat(taxa[rows], s[block].shape[1]).tolist()
        value = keys[f"pearson/per_head/{aspect}"]
        if len(a) and np.ptp(a) > 0 and np.ptp(b) > 0:
            assert value == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)
        else:
            assert value is None
    assert keys["mae/val"] == (pytest.approx(np.mean(errors)) if errors else None)
    for taxon in set(groups):
        assert keys[f"mae/per_group/{taxon}"] == pytest.approx(np.mean(np.array(errors)[np.array(groups) == taxon]))


@laws
@given(ontologies(), st.data(), st.integers(0, 4))
def test_proteins_may_come_some_at_a_time(ontology: Ontology, data: st.DataObject, cut: int) -> None:
    scores = propagate_max(csr(data.draw(score_matrices(len(ontology)))), ontology)
    truth = propagate_labels(csr(data.draw(score_matrices(len(ontology))) > 0, np.bool_), ontology)
    columns, taxa, bits = np.arange(len(ontology)), np.array([9606, 9606, 0, 10090]), np.linspace(0, 3, len(ontology))
    evaluation, calibration = Evaluation(ontology, bits), CalibrationCounts(ontology)
    watched = Monitors(ontology, columns)
    for place in (slice(0, cut), slice(cut, None)):
        evaluation.add(scores[place], truth[place])
        calibration.add(scores[place], truth[place])
        watched.add(scores[place], truth[place], taxa[place])
    assert metric_keys(evaluation.metrics()) == metric_keys(evaluate(scores, truth, ontology, bits))
    assert calibration.errors() == calibration_errors(scores, truth, ontology)
    assert watched.keys() == monitors(scores, truth, ontology, columns=columns, taxa=taxa)


def test_figures_are_pictures_with_equal_bytes_for_equal_metrics(tmp_path_factory: pytest.TempPathFactory) -> None:
    ontology = make_ontology([[], [0], [0]], [0, 0, 0])
    truth = csr(np.array([[1, 1, 0], [1, 0, 1]]), np.bool_)
    scores = csr(np.array([[0.9, 0.6, 0.3], [0.9, 0.5, 0.8]]))
    metrics = evaluate(scores, truth, ontology, np.ones(3))
    drawn = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("figures")
        paths = {aspect: folder / f"{aspect}.png" for aspect in ASPECTS}
        figures(paths, {"gcn": metrics, "naive": evaluate(csr(np.zeros((2, 3))), truth, ontology, np.ones(3))})
        drawn.append([path.read_bytes() for path in paths.values()])
    assert drawn[0] == drawn[1]
    assert all(data.startswith(b"\x89PNG") for data in drawn[0])
    assert drawn[0][0] != drawn[0][1]


def test_true_entries_are_those_of_both_matrices():
    rng = np.random.default_rng(4)
    scores, labels = (sparse.csr_array(rng.random((30, 40)) * (rng.random((30, 40)) < 0.3)) for _ in range(2))
    found = true_entries((scores.indptr, scores.indices), (labels.indptr, labels.indices), 40)
    row = np.repeat(np.arange(30), np.diff(scores.indptr))
    assert found.tolist() == (labels.toarray()[row, scores.indices] > 0).tolist()
    assert 0 < found.sum() < len(found)
