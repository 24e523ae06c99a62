"""The engine's rows on small work: equal output, peers that are missing are named; no test of speed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.peers.client import VARIABLE
from benchmarks.peers.contest import Contest, cosine_distance
from benchmarks.rows import embedding, ig, knn, t5
from shared.nn.encoders.esm2 import Esm2Shape


@pytest.fixture(autouse=True)
def no_peers(monkeypatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_all_ways_of_embedding_agree() -> None:
    contest = embedding.measure("8M", 3, 1)
    assert embedding.OPENVINO in contest.skipped
    wanted = contest.results[embedding.REFERENCE]
    for way in (embedding.EXTRACT, embedding.SINGLE):
        assert cosine_distance(contest.results[way], wanted) <= embedding.SINGLE_ERROR
    for way in (embedding.HALF, embedding.HF_HALF):
        assert cosine_distance(contest.results[way], wanted) <= embedding.HALF_ERROR


def test_all_ways_through_t5_agree() -> None:
    contest = t5.measure(2, 1)
    assert cosine_distance(contest.results[t5.SINGLE], contest.results[t5.ONE]) <= embedding.SINGLE_ERROR
    assert cosine_distance(contest.results[t5.HALF], contest.results[t5.ONE]) <= embedding.HALF_ERROR


def test_all_ways_to_neighbours_and_votes_agree() -> None:
    contest = knn.measure(1, size=600)
    assert knn.recall(contest.results[knn.OURS], contest.results[knn.BRUTE]) == 1
    assert knn.recall(contest.results[knn.SINGLE], contest.results[knn.BRUTE]) == 1
    theirs = contest.results[knn.VOTE_BRUTE]
    assert np.abs(contest.results[knn.VOTE] - theirs)[theirs > -10].max() <= 1e-2


def test_recall_and_rank_correlation_see_what_is_wrong() -> None:
    wanted = np.arange(20).reshape(2, 10)
    assert knn.recall(wanted[:, ::-1], wanted) == 1
    assert knn.recall(wanted + 1, wanted) == pytest.approx(0.9)
    assert ig.rank_correlation(wanted, wanted[:, ::-1]) == pytest.approx(-1)


def test_work_and_share_of_the_peak_by_hand() -> None:
    # One token pair per layer: 24 d^2 per token, 4 d n^2 per sequence.
    assert embedding.useful_flops(["M"], Esm2Shape(layers=2, dim=10, heads=1)) == 2 * (2400 * 3 + 40 * 9)
    contest = Contest({"ours": [2.0, 4.0], "product": [0.5, 0.5]}, {"product": np.array(200.0)})
    assert embedding.share_of_peak(contest, "ours", "product", 300.0) == pytest.approx((0.75 + 0.375) / 2)


def test_batches_of_a_peer_stay_within_its_budget() -> None:
    lengths = [5, 90, 40, 60, 10]
    batches = embedding.sorted_batches(lengths, 100)
    assert [[lengths[row] for row in batch] for batch in batches] == [[90], [60, 40], [10, 5]]
    assert sorted(row for batch in batches for row in batch) == list(range(5))
