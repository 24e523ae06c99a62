"""Neighbour search and label transfer beside scikit-learn's brute force and faiss's flat index."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from benchmarks.peers.client import Peer, PeerMissing
from benchmarks.peers.contest import Contest, Result, Way, interleave, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as compared
from shared.models.reference import ASPECT_COUNT, Reference
from shared.nn.nearest import nearest

QUERIES, REFERENCE, DIM, COUNT, TERMS, LABELS = 1000, 40_000, 1024, 10, 3000, 30
OURS, SINGLE, BRUTE, FAISS = "gowhy", "gowhy float32", "scikit-learn brute", "faiss IndexFlatIP"
VOTE, VOTE_BRUTE = "gowhy, with the vote", "scikit-learn brute, with a loop over neighbours"


def data(size: int) -> tuple[Result, Result]:
    """Unit vectors in families of about ten: queries float32, reference float16, as a run keeps them."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, size // 10), DIM), np.float32)

    def drawn(count: int) -> Result:
        found = centres[rng.integers(0, len(centres), count)] + 0.7 * rng.standard_normal((count, DIM), np.float32)
        unit: Result = found / np.linalg.norm(found, axis=1, keepdims=True)
        return unit

    return drawn(QUERIES), drawn(size).astype(np.float16)


def reference_of(size: int) -> Reference:
    """Random labels for the vote."""
    rng = np.random.default_rng(1)
    indices = np.sort(rng.integers(0, TERMS, (size, LABELS)), axis=1).ravel()
    labels = sparse.csr_array((np.ones(len(indices), np.float32), indices, np.arange(size + 1) * LABELS), (size, TERMS))
    labels.sum_duplicates()
    labels.data[:] = 1
    aspects = (np.arange(TERMS) % ASPECT_COUNT).astype(np.int8)
    priors = np.full(TERMS, LABELS / TERMS, np.float32)
    annotated = np.ones((size, ASPECT_COUNT), bool)
    return Reference(np.arange(size), labels, annotated, aspects, priors, np.zeros(size, np.int64))


def measure(rounds: int, size: int = REFERENCE) -> Contest:
    """Neighbour positions [query, k] of every way; the votes' results are logits."""
    queries, reference = data(size)
    voters = reference_of(size)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gowhy-bench-")))
        single = reference.astype(np.float32)
        brute = NearestNeighbors(n_neighbors=COUNT, metric="cosine", algorithm="brute", n_jobs=1).fit(single)
        ways: dict[str, Way] = {
            BRUTE: timed(lambda: brute.kneighbors(queries, return_distance=False)),
            SINGLE: timed(lambda: nearest(queries, reference, COUNT, half=False)[0]),
            OURS: timed(lambda: nearest(queries, reference, COUNT)[0]),
            VOTE_BRUTE: timed(lambda: _loop(brute, queries, voters)),
            VOTE: timed(lambda: _vote(*nearest(queries, reference, COUNT), voters)),
        }
        skipped = {}
        np.save(folder / "queries.npy", queries)
        np.save(folder / "reference.npy", single)
        task = {name: str(folder / f"{name}.npy") for name in ("queries", "reference", "result")}
        try:
            peer = stack.enter_context(Peer("faiss_flat.py", {**task, "count": COUNT}))
            ways[FAISS] = lambda: (peer.run(), np.load(folder / "result.npy"))
        except PeerMissing as error:
            skipped[FAISS] = str(error)
        return interleave(ways, rounds, skipped)


def recall(found: Result, wanted: Result) -> float:
    """Share of the wanted neighbours that were found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)]))


def _vote(position: Result, cosine: Result, voters: Reference) -> Result:
    """As `Knn` does it, temperature 0.1."""
    weight = np.exp((cosine - 1) / np.float32(0.1))
    query = np.repeat(np.arange(len(position)), position.shape[1])
    votes = sparse.csr_array((weight.ravel(), (query, position.ravel())), shape=(len(position), len(voters.rows)))
    logits: Result = voters.vote(votes)
    return logits


def _loop(brute: NearestNeighbors, queries: Result, voters: Reference) -> Result:
    """The usual label transfer: a loop over proteins, dense label rows times weights."""
    distance, position = brute.kneighbors(queries)
    weight = np.exp(-distance / 0.1)
    scores = np.stack([w @ voters.labels[p].toarray() / w.sum() for w, p in zip(weight, position, strict=True)])
    limited = np.clip(scores, 1e-30, 1 - 1e-7)
    logits: Result = np.log(limited / (1 - limited))
    return logits


def compare(rounds: int) -> list[Comparison]:
    """Search alone beside both peers, and with the vote beside the usual loop."""
    contest = measure(rounds)
    wanted = contest.results[BRUTE]
    line = {
        "sizes": f"{QUERIES} x {REFERENCE} x {DIM}, k {COUNT}",
        "difference": 1 - recall(contest.results[OURS], wanted),
        "tolerance": 0.0,
        "measure": "1 - recall",
    }
    theirs = contest.results[VOTE_BRUTE]
    voted = theirs > -10  # terms that a neighbour has; the others get the prior here and nothing there
    apart = float(np.abs(contest.results[VOTE][voted] - theirs[voted]).max())
    vote = {**line, "difference": apart, "tolerance": 1e-2, "measure": "logits"}
    return [
        compared(contest, OURS, BRUTE, name="KNN", least=3.0, **line),
        compared(contest, OURS, FAISS, name="KNN, faiss", least=1.2, **line),
        compared(contest, VOTE, VOTE_BRUTE, name="KNN with label vote", least=3.0, **vote),
    ]
