"""The k most similar reference vectors by cosine, exactly, at bfloat16's speed where the processor has it.

Scores are first computed in bfloat16, block by block. The rounding of both sides is measured, so that it is
known how far such a score can be from the true one: whatever lies within that distance of the k-th best is
computed again in float32, and all else cannot be among the best. Queries with too many candidates, as
where all vectors look alike, are searched again in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from shared.compiled import compiled
from shared.models.features import FloatArray, IntArray

REFERENCE_ROWS = 2048  # whose buffers, used again for each block, stay in the cache
CANDIDATES = 64  # per query; more of them make the short cut longer than the way

Excluded = Callable[[slice, IntArray], npt.NDArray[np.bool_]]
Half = npt.NDArray[np.float16]


def nearest(
    queries: FloatArray,
    reference: Half,
    count: int,
    excluded: Excluded | None = None,
    *,
    half: bool | None = None,
) -> tuple[IntArray, FloatArray]:
    """Reference positions and cosines [query, k], best first; equal cosines by position; -inf where fewer exist.

    Args:
        queries: unit vectors [query, dimension], or zero.
        reference: unit vectors [reference, dimension], or zero.
        count: k; at most the number of reference vectors.
        excluded: (reference rows, queries) -> [query, reference row], True where a pair does not count.
        half: search in bfloat16 first; None: where the processor multiplies it, and there is enough to gain.
    """
    count = min(count, len(reference))
    every = np.arange(len(queries))
    if half is None:
        half = torch.cpu._is_avx512_bf16_supported() and len(queries) >= 16 and count <= CANDIDATES // 2
    if not half:
        return _exact(queries, reference, count, excluded, every)
    position, cosine, certain = _certified(queries, reference, count, excluded)
    open_queries = every[~certain]
    if len(open_queries):
        position[open_queries], cosine[open_queries] = _exact(queries, reference, count, excluded, open_queries)
    return position, cosine


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, REFERENCE_ROWS):
        yield slice(start, min(start + REFERENCE_ROWS, count))


def _exact(
    queries: FloatArray, reference: Half, count: int, excluded: Excluded | None, which: IntArray
) -> tuple[IntArray, FloatArray]:
    """The answer for `which` queries, in float32."""
    position = np.zeros((len(which), count), np.int64)
    cosine = np.full((len(which), count), -np.inf, np.float32)
    chosen = queries[which]
    for place in _blocks(len(reference)):
        similar = chosen @ reference[place].astype(np.float32).T
        if excluded is not None:
            similar[excluded(place, which)] = -np.inf
        keep_best(similar, place.start, position, cosine)
    return position, cosine


def _certified(
    queries: FloatArray, reference: Half, count: int, excluded: Excluded | None
) -> tuple[IntArray, FloatArray, npt.NDArray[np.bool_]]:
    """As `nearest`, and whether each query's answer is certain."""
    every = np.arange(len(queries))
    room = min(CANDIDATES, len(reference))
    position = np.zeros((len(queries), room), np.int64)
    rough = np.full((len(queries), room), -np.inf, np.float32)
    single = torch.from_numpy(np.ascontiguousarray(queries))
    narrow = single.bfloat16()
    query_error = (single - narrow.float()).norm(dim=1).numpy()
    reference_error = 0.0
    rows = min(REFERENCE_ROWS, len(reference))
    wide, half = torch.empty(rows, reference.shape[1]), torch.empty(rows, reference.shape[1], dtype=torch.bfloat16)
    product, similar = torch.empty(len(queries), rows, dtype=torch.bfloat16), torch.empty(len(queries), rows)
    for place in _blocks(len(reference)):
        held = place.stop - place.start
        block = wide[:held].copy_(torch.from_numpy(np.ascontiguousarray(reference[place])))
        narrow_block = half[:held].copy_(block)
        # float16 has three bits more, so that the difference is exact in float32.
        rounding = torch.linalg.vector_norm(block.sub_(narrow_block), dim=1)
        reference_error = max(reference_error, float(rounding.max()))
        scores = similar[:, :held].copy_(torch.mm(narrow, narrow_block.t(), out=product[:, :held])).numpy()
        if excluded is not None:
            scores[excluded(place, every)] = -np.inf
        keep_best(scores, place.start, position, rough)
    # |q.r - q'.r'| <= |q - q'| |r| + |q'| |r - r'| for vectors of at most unit length, 1e-3 above it for
    # roundings of the lengths themselves; then the score's own rounding, on both sides of the comparison.
    error = 1.001 * (query_error + reference_error) + 1e-5
    last = rough[:, count - 1]
    limit = last - 2 * error - 2 * np.abs(last) * 2.0**-8
    complete = np.isneginf(last) | (rough[:, -1] < limit) | (room == len(reference))
    best = np.zeros((len(queries), count), np.int64)
    cosine = np.full((len(queries), count), -np.inf, np.float32)
    for query in np.flatnonzero(complete):
        found = position[query, (rough[query] >= limit[query]) & ~np.isneginf(rough[query])]
        found.sort()
        true = np.einsum("cd,d->c", torch.from_numpy(reference[found]).float().numpy(), queries[query])
        order = np.argsort(-true, kind="stable")[:count]
        best[query, : len(order)], cosine[query, : len(order)] = found[order], true[order]
    return best, cosine, complete


@compiled
def keep_best(similar: FloatArray, start: int, position: IntArray, cosine: FloatArray) -> None:
    """Update each row's best list, in place, with a block of candidates.

    Args:
        similar: cosines [query, candidate]; the candidates are at positions `start`, `start + 1`, ...
        start: larger than every position that is already in a list, so that equal cosines stay in position order.
        position: of the best so far [query, k].
        cosine: of the best so far [query, k], descending; -inf where a place is free.
    """
    count = cosine.shape[1]
    for query in range(similar.shape[0]):
        for candidate in range(similar.shape[1]):
            value = similar[query, candidate]
            if value <= cosine[query, count - 1]:
                continue
            place = count - 1
            while place > 0 and cosine[query, place - 1] < value:
                cosine[query, place] = cosine[query, place - 1]
                position[query, place] = position[query, place - 1]
                place -= 1
            cosine[query, place] = value
            position[query, place] = start + candidate
