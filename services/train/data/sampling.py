"""Which proteins an epoch shows, and in which order, by registry name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Sampler = Callable[[IntArray, IntArray, np.random.Generator], IntArray]


def uniform(rows: IntArray, clusters: IntArray, generator: np.random.Generator) -> IntArray:  # noqa: ARG001
    """Every row once, in random order."""
    return generator.permutation(np.asarray(rows, np.int64))


def one_per_cluster(rows: IntArray, clusters: IntArray, generator: np.random.Generator) -> IntArray:
    """One random row of each homology cluster, in random order: large families count as much as small ones.

    Source: as protein language models sample UniRef50 clusters (Lin et al. 2023, doi:10.1126/science.ade2574).
    """
    shuffled = generator.permutation(np.asarray(rows, np.int64))
    # The first of a shuffled cluster is a uniform draw from it, and `shuffled` orders the draws at random.
    _, first = np.unique(clusters[shuffled], return_index=True)
    return shuffled[np.sort(first)]


SAMPLERS: Mapping[str, Sampler] = {"uniform": uniform, "cluster": one_per_cluster}
"""Name in `level1.sampling` -> function of the rows to fit on, the cluster of every train row, and a generator."""
