"""Defects that were real in published pipelines, each injected into sound arrays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from services.train.checks import Judged, check_filled, check_order, check_test_labels, require
from shared.errors import IntegrityError

PROTEINS, TERMS = 300, 40


def sound(noise: float = 1.0) -> tuple[np.ndarray, Judged]:
    """Logits that know something about random labels of a decreasing frequency."""
    rng = np.random.default_rng(7)
    frequency = np.linspace(0.6, 0.05, TERMS)
    labels = rng.random((PROTEINS, TERMS)) < frequency
    prior = np.log(frequency / (1 - frequency))
    logits = prior + 2.0 * (labels - frequency) + noise * rng.normal(size=labels.shape)
    names = [f"GO:{number:07d}" for number in rng.permutation(TERMS)]
    return logits.astype(np.float32), Judged(labels, rng.random((PROTEINS, TERMS)) < 0.9, names)


def test_sound_arrays_pass() -> None:
    check = check_order("sound", *sound())
    assert check.holds
    assert check.found["worst_z"] <= 0
    require([check])


def test_a_model_that_knows_nothing_of_proteins_passes() -> None:
    """Shifted rows are no better than the right ones: only a clear gain is a defect."""
    logits, judged = sound()
    assert check_order("prior", np.tile(logits.mean(axis=0), (PROTEINS, 1)), judged).holds


@pytest.mark.parametrize("by", [1, -1])
def test_shifted_rows_are_found(by: int) -> None:
    logits, judged = sound()
    check = check_order("shifted", np.roll(logits, by, axis=0), judged)
    assert not check.holds
    assert "rows shifted" in check.says
    with pytest.raises(IntegrityError, match="order of proteins"):
        require([check])


def test_columns_in_another_order_are_found() -> None:
    """The pivot table's defect: columns sorted by id under a list sorted by frequency, and the reverse."""
    logits, judged = sound()
    by_id = logits[:, np.argsort(judged.terms)]
    check = check_order("sorted", by_id, judged)
    assert not check.holds
    assert "order of ids" in check.says
    shuffled = np.random.default_rng(1).permutation(TERMS)
    names = [judged.terms[place] for place in shuffled]
    moved = Judged(judged.labels[:, shuffled], judged.known[:, shuffled], names)
    frequency = judged.labels.sum(axis=0)
    by_frequency = logits[:, np.lexsort((np.asarray(judged.terms), -frequency))]
    assert "order of frequency" in check_order("pivot", by_frequency, moved).says


def test_a_modality_that_is_empty_in_one_part_is_found() -> None:
    full, empty = np.ones((50, 3), np.float16), np.zeros((50, 3), np.float16)
    assert check_filled("esm2", full, full).holds
    assert check_filled("text", empty, empty).holds, "absent everywhere"
    assert check_filled("text", np.zeros((50, 0)), full[:0]).holds, "absent modality"
    for train, test, part in ((empty, full, "train"), (full, empty, "test")):
        check = check_filled("esm2", train, test)
        assert not check.holds
        assert f"of the {part} proteins" in check.says


def test_test_labels_in_train_are_counted_unless_known_before() -> None:
    truth = sparse.csr_array(np.array([[1, 1, 0], [0, 1, 0]], bool))
    none = sparse.csr_array(truth.shape, dtype=bool)
    train = sparse.csr_array(np.array([[1, 0, 1], [0, 0, 0]], np.int8))
    assert check_test_labels(truth, none, none.astype(np.int8)).holds
    assert check_test_labels(truth, none, train).found == {"pairs": 1}
    assert not check_test_labels(truth, none, train).holds
    known = sparse.csr_array(np.array([[1, 0, 0], [0, 0, 0]], bool))
    assert check_test_labels(truth, known, train).holds
