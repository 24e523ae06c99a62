"""The KNN reference as a bundle stores it: a plain archive, a gzipped one, or inside model.pth (`full`).

The three are compared with each other: bytes, processor seconds of loading, and predictions, which must be the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from benchmarks.gates import Gate
from benchmarks.peers.contest import Result, interleave, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as line
from services.train.bundle import numeric, write_reference
from shared.models.bundle import read_npz, under
from shared.models.feature_space import FeatureSpace
from shared.models.features import Features
from shared.models.knn import Knn
from shared.models.reference import Reference
from shared.nn.transforms import Transform
from shared.nn.weights import as_arrays

PROTEINS, DIM, TERMS, LABELS, QUERIES = 20_000, 1024, 1500, 40, 64
PLAIN, GZIP, FULL = "plain", "gz", "full"


def compare(rounds: int) -> list[Comparison]:
    """Seconds are those of loading; the plain archive is `ours`, and the others are measured by it."""
    knn, queries = made(PROTEINS)
    with tempfile.TemporaryDirectory(prefix="gowhy-bench-") as temporary:
        folder = Path(temporary)
        paths = {PLAIN: folder / "r.npz", GZIP: folder / "r.npz.gz", FULL: folder / "model.pth"}
        write_reference(paths[PLAIN], knn)
        write_reference(paths[GZIP], knn)
        state = {f"reference/{name}": torch.from_numpy(array) for name, array in numeric(knn.arrays()).items()}
        torch.save({"architecture": {}, "state": state}, paths[FULL])
        loaders: dict[str, Callable[[], dict[str, Result]]] = {
            PLAIN: lambda: read_npz(paths[PLAIN]),
            GZIP: lambda: read_npz(paths[GZIP]),
            FULL: lambda: as_arrays(under(torch.load(paths[FULL], weights_only=True)["state"], "reference/")),
        }
        architecture, rows = knn.architecture(), np.arange(QUERIES)
        predicted = {name: Knn.restore(architecture, load()).logits(queries, rows) for name, load in loaders.items()}
        found = interleave({name: timed(partial(_touched, load)) for name, load in loaders.items()}, rounds)
        sizes = {name: path.stat().st_size for name, path in paths.items()}
    same = knn.logits(queries, rows)
    return [
        line(
            found,
            PLAIN,
            name,
            name=f"KNN reference, {name}",
            sizes=f"{PROTEINS} x {DIM}, {sizes[name] / 1e6:.1f} MB, {np.median(found.seconds[name]):.2f} s",
            least=None,
            difference=float(np.abs(predicted[name] - same).max()),
            tolerance=0.0,
            measure="largest difference of a prediction",
            also=(Gate("bytes", True, f"{sizes[name] / sizes[PLAIN]:.2f} of plain"),),
        )
        for name in paths
    ]


def _touched(load: Callable[[], dict[str, Result]]) -> Result:
    """Sums, so that a loader that only maps its file has read it."""
    arrays = load()
    return np.array([float(arrays[name].sum(dtype=np.float64)) for name in sorted(arrays)])


def made(proteins: int) -> tuple[Knn, Features]:
    """A reference in families of ten, and queries of those families."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((proteins // 10, DIM), np.float32)
    vectors = np.repeat(centres, 10, axis=0) + 0.7 * rng.standard_normal((proteins, DIM), np.float32)
    space = FeatureSpace({"esm2": DIM}, np.zeros(0, np.int64), Transform("v1", {}, {}))
    indices = np.sort(rng.integers(0, TERMS, (proteins, LABELS)), axis=1).ravel()
    values = np.ones(len(indices), np.float32)
    labels = sparse.csr_array((values, indices, np.arange(proteins + 1) * LABELS), shape=(proteins, TERMS))
    labels.sum_duplicates()
    labels.data[:] = 1
    aspects = (np.arange(TERMS) % 3).astype(np.int8)
    priors = np.full(TERMS, LABELS / TERMS, np.float32)
    taxa = np.zeros(proteins, np.int64)
    reference = Reference(np.arange(proteins), labels, np.ones((proteins, 3), bool), aspects, priors, taxa)

    def features(array: Result) -> Features:
        count = len(array)
        return Features([str(n) for n in range(count)], ["M"] * count, {"esm2": array}, np.zeros(count, np.int64), None)

    embeddings = Knn.embed(space, features(vectors), np.arange(proteins)).astype(np.float16)
    terms = tuple(f"GO:{n:07d}" for n in range(TERMS))
    knn = Knn(reference, embeddings, space, terms, neighbours=20, temperature=0.1)
    queries = centres[rng.integers(0, len(centres), QUERIES)] + 0.7 * rng.standard_normal((QUERIES, DIM), np.float32)
    return knn, features(queries)
