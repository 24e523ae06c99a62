from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.train.splits import Split, join_near_copies, make_split, near_pairs, read_split_ids
from shared.config import SplitConfig
from shared.digests import digest_of_lines
from shared.errors import DataError

CLUSTERS = st.lists(st.integers(0, 30), min_size=12, max_size=120)


def proteins(clusters: list[int]) -> tuple[list[str], list[str], np.ndarray]:
    """Every second member of a cluster has the same sequence as the others of even position."""
    place: Counter[int] = Counter()
    sequences = []
    for cluster in clusters:
        place[cluster] += 1
        sequences.append(f"C{cluster}" + ("" if place[cluster] % 2 else f"V{place[cluster]}"))
    return [f"P{row}" for row in range(len(clusters))], sequences, np.array(clusters, np.int64)


@given(clusters=CLUSTERS, seed=st.integers(0, 5), folds=st.integers(2, 5), share=st.sampled_from([0.1, 0.3]))
@settings(max_examples=80, deadline=None)
def test_a_drawn_split_is_a_partition_into_whole_clusters(clusters, seed, folds, share) -> None:
    assume(len(set(clusters)) >= folds + max(1, round(share * len(set(clusters)))))
    ids, sequences, numbers = proteins(clusters)
    config = SplitConfig(seed=seed, folds=folds, val_fraction=share)
    split = make_split(ids, sequences, numbers, config)
    assert set(split.folds[~split.validation]) == set(range(folds))
    assert set(split.folds[split.validation]) == {-1}
    parts = np.where(split.validation, -1, split.folds)
    assert all(len(set(parts[numbers == cluster])) == 1 for cluster in set(clusters))
    loads = np.bincount(split.folds[~split.validation])
    largest = max(Counter(numbers[~split.validation]).values())
    assert loads.max() - loads.min() <= largest
    again = make_split(ids, sequences, numbers, config)
    pd.testing.assert_frame_equal(split.frame(), again.frame())


@given(clusters=CLUSTERS, data=st.data())
@settings(max_examples=60, deadline=None)
def test_listed_ids_are_obeyed_and_their_copies_go_with_them(clusters, data) -> None:
    ids, sequences, numbers = proteins(clusters)
    listed = data.draw(st.lists(st.sampled_from(ids), min_size=1, max_size=4, unique=True))
    held = {sequences[ids.index(protein)] for protein in listed}
    left = [number for number, sequence in zip(clusters, sequences, strict=True) if sequence not in held]
    assume(len(set(left)) >= 2)
    split = make_split(ids, sequences, numbers, SplitConfig(folds=2), [*listed, "UNKNOWN"])
    validation = {ids[row] for row in np.flatnonzero(split.validation)}
    assert validation == {protein for protein, sequence in zip(ids, sequences, strict=True) if sequence in held}
    assert split.record["moved_to_val_as_identical"]["count"] == len(validation) - len(listed)
    assert split.record["unknown"] == {"count": 1, "examples": ["UNKNOWN"]}
    cut = [row for row in np.flatnonzero(~split.validation) if numbers[row] in numbers[split.validation]]
    assert split.record["fit_in_a_val_cluster"]["count"] == len(cut)


def test_the_fraction_is_of_clusters_and_a_giant_is_not_drawn() -> None:
    clusters = [0] * 100 + list(range(1, 51))
    for seed in range(10):
        split = make_split(*proteins(clusters), SplitConfig(seed=seed, val_fraction=0.1))
        assert split.validation.sum() == round(0.1 * 51)
        assert not split.validation[:100].any()


def test_the_seed_matters() -> None:
    clusters = list(range(60))
    splits = [make_split(*proteins(clusters), SplitConfig(seed=seed)) for seed in (1, 2)]
    assert (splits[0].validation != splits[1].validation).any()


def test_hashes_are_of_the_ids_in_row_order() -> None:
    split = Split(
        ["A", "B", "C", "D"],
        np.array([False, True, False, False]),
        np.array([0, -1, 1, 0], np.int8),
        np.arange(4),
        {},
    )
    assert split.hashes() == {
        "val": digest_of_lines(["B"]),
        "fold_0": digest_of_lines(["A", "D"]),
        "fold_1": digest_of_lines(["C"]),
    }
    assert split.sizes() == {"fit": 3, "val": 1, "fold_0": 2, "fold_1": 1}


@pytest.mark.parametrize(
    ("clusters", "listed", "says"),
    [
        ([0] * 20, None, "1 homology clusters cannot"),
        ([0, 1, 2], None, "3 homology clusters cannot"),
        (list(range(20)), ["X1", "X2"], "none of 2 validation ids"),
        ([0, 1, 2], ["P0", "P1", "P2"], "0 homology clusters cannot"),
    ],
)
def test_splits_that_cannot_be_are_refused(clusters, listed, says) -> None:
    with pytest.raises(DataError, match=says):
        make_split(*proteins(clusters), SplitConfig(), listed)


def test_near_pairs_are_counted_once_and_only_across_parts() -> None:
    split = Split(
        list("ABCDE"),
        np.array([False, False, False, True, True]),
        np.array([0, 0, 1, -1, -1], np.int8),
        np.arange(5),
        {},
    )
    rows = [
        # query, target, fident, qcov, tcov
        (0, 1, 0.9, 0.9, 0.9),  # same fold
        (0, 2, 0.3, 0.8, 0.8),  # across folds, exactly at both thresholds
        (2, 0, 0.3, 0.8, 0.8),  # the same pair the other way
        (1, 2, 0.29, 0.9, 0.9),  # not similar enough
        (1, 2, 0.9, 0.9, 0.79),  # one side not covered
        (1, 3, 0.5, 0.9, 0.9),  # validation and fit
        (3, 4, 0.9, 0.9, 0.9),  # inside validation
    ]
    hits = pd.DataFrame(rows, columns=["query", "target", "fident", "qcov", "tcov"])
    hits = hits.astype(dict.fromkeys(("fident", "qcov", "tcov"), np.float32))
    near = near_pairs(split, hits, 0.3, 0.8)
    assert near["pairs"] == 4
    assert near["across_folds"] == {"pairs": 1, "proteins": 2, "examples": [["A", "C"]]}
    assert near["val_fit"] == {"pairs": 1, "proteins": 2, "examples": [["B", "D"]]}


def test_split_ids_are_read_normalised_and_once(tmp_path: Path) -> None:
    path = tmp_path / "val.txt"
    path.write_text("\ufeffP1\n\nsp|P2|X\r\nP1\n", encoding="utf-8")
    assert read_split_ids(path) == ["P1", "P2"]


@pytest.mark.parametrize(("text", "where"), [("", ""), ("\n \n", ""), ("P1\nP2 P3\n", ":2")])
def test_wrong_split_ids_are_refused(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "val.txt"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_split_ids(path)
    assert caught.value.where == f"{path}{where}"


def test_near_copies_in_two_clusters_are_joined_and_nothing_else() -> None:
    clusters = np.array([0, 1, 2, 3, 1])
    hits = pd.DataFrame(
        [(0, 3, 0.95, 0.9, 0.9), (3, 0, 0.95, 0.9, 0.9), (1, 2, 0.89, 1.0, 1.0), (2, 3, 0.99, 0.5, 1.0)],
        columns=["query", "target", "fident", "qcov", "tcov"],
    )
    assert join_near_copies(clusters, hits, 0.9, 0.8).tolist() == [0, 1, 2, 0, 1]
    assert join_near_copies(clusters, hits, 1.01, 0.8).tolist() == [0, 1, 2, 3, 1]
    assert join_near_copies(clusters[:0], hits[:0], 0.9, 0.8).tolist() == []
