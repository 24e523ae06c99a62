"""Compiled kernels that move scores up a DAG whose parents have smaller indices than their children.

Kernels know arrays only; `shared.ontology` holds the public functions. CSR pairs are
(pointer [n + 1], index [pointer[-1]]).

float32 scores of WORTH or more go to propagation.cpp where a compiler and AVX-512 are there, everything else to
numba: only maxima are taken, so both give the same bytes.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.compiled import compiled
from shared.native import library

Array = npt.NDArray[Any]
Csr = tuple[Array, Array]  # pointer, index
Rows = tuple[Array, Array, Array]  # pointer, index, values
BLOCK = 16  # proteins per block: a column of 16 floats is one cache line
TILE = 64  # terms that are turned at a time
WORTH = 2**20  # rows times terms; fewer are not worth asking for a compiler
SOURCE = Path(__file__).with_name("propagation.cpp")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-w", "-mavx512f", "-mavx512bw")
LINE = 64  # bytes that vectors are aligned to
WORD = 64  # marks in one integer
ONE, TOP_BITS = np.uint64(1), np.uint64(58)
# The top six bits of this number times 2**i differ for every i, so they tell which bit of an integer is set.
# C. Leiserson, H. Prokop, K. Randall, "Using de Bruijn Sequences to Index a 1 in a Computer Word", 1998.
DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
BIT = np.empty(WORD, np.int64)
BIT[[((int(DE_BRUIJN) << bit) % (1 << WORD)) >> 58 for bit in range(WORD)]] = np.arange(WORD)


class Native:
    """propagation.cpp on arrays, on the calling thread, which lets go of the interpreter."""

    def __init__(self, found: ctypes.CDLL) -> None:
        pointer, integer = ctypes.c_void_p, ctypes.c_long
        self.supported: bool = bool(found.gowhy_supported())
        self._dense = found.gowhy_propagate_dense
        self._dense.argtypes = [pointer, integer, integer, pointer, pointer, integer, pointer]
        self._dense.restype = None
        self._sparse = found.gowhy_propagate_sparse
        self._sparse.argtypes = [
            pointer, pointer, pointer, integer, integer, pointer, pointer, integer, ctypes.c_int, *[pointer] * 5
        ]  # fmt: skip
        self._sparse.restype = None

    def block(self, block: Array, children: Array, parents: Array) -> None:
        """`propagate_block` of a contiguous float32 block and int32 edges."""
        turned = _aligned(block.shape[1])
        self._dense(
            block.ctypes.data,
            *block.shape,
            children.ctypes.data,
            parents.ctypes.data,
            len(children),
            turned.ctypes.data,
        )

    def rows(self, scores: Rows, parents: Csr, closure: Csr, fill: bool) -> Rows:
        """`propagate_rows` of contiguous (int64, int32, float32) rows."""
        pointer, index, values = scores
        rows, terms = len(pointer) - 1, len(parents[0]) - 1
        child = np.repeat(np.arange(terms, dtype=np.int32), np.diff(parents[0]))[::-1].copy()
        parent = np.ascontiguousarray(parents[1][::-1])
        room = room_for(pointer, index, closure)
        out_pointer, out_index, out_values = (
            np.zeros(rows + 1, np.int64),
            np.empty(room, np.int32),
            np.empty(room, np.float32),
        )
        turned, absent = _aligned(terms), np.full(terms, 0xFFFF, np.uint16)
        arrays = (turned, absent, out_pointer, out_index, out_values)
        self._sparse(
            pointer.ctypes.data,
            index.ctypes.data,
            values.ctypes.data,
            rows,
            terms,
            child.ctypes.data,
            parent.ctypes.data,
            len(child),
            int(fill),
            *(array.ctypes.data for array in arrays),
        )
        for array in (out_index, out_values):
            array.resize(int(out_pointer[-1]), refcheck=False)  # gives the rest back without a copy
        return out_pointer, out_index, out_values


def room_for(pointer: Array, index: Array, closure: Csr) -> int:
    """Places that propagated rows take at most: no row has more terms than the closures of its own terms.

    Memory that is reserved and never written is never taken.
    """
    reach = np.concatenate(([0], np.cumsum(np.diff(closure[0])[index])))[pointer]
    return int(np.minimum(np.diff(reach), len(closure[0]) - 1).sum())


def _aligned(terms: int) -> Array:
    """Zeros for BLOCK scores of each term, at the start of a cache line."""
    raw = np.zeros(4 * BLOCK * terms + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + 4 * BLOCK * terms].view(np.float32)


@functools.cache
def native() -> Native | None:
    """The compiled library, or None where it cannot be had; asked once per process."""
    found, _reason = library(SOURCE, FLAGS)
    if found is None:
        return None
    ours = Native(found)
    return ours if ours.supported else None


def propagate_rows(scores: Rows, parents: Csr, closure: Csr, fill: bool) -> Rows:
    """Propagated rows of a CSR matrix as CSR, indices ascending; entries that are not positive count as absent.

    Each term gets the maximum of its own value and its children's; with `fill` a term that has a
    value of its own keeps it, and passes that on.
    """
    pointer, index, values = scores
    rows, terms = len(pointer) - 1, len(parents[0]) - 1
    # The library passes every edge for BLOCK rows at a time; the other kernel visits the closures of a row's own terms,
    # which is less where there are few of them, and takes about twice as long per visit.
    visits = 2 * int(np.diff(closure[0])[index].sum())
    worth = rows * terms >= WORTH and visits * BLOCK > rows * (len(parents[1]) + 2 * terms)
    if worth and values.dtype == np.float32 and (compiled_code := native()) is not None:
        return compiled_code.rows(scores, parents, closure, fill)
    return _propagate_rows(scores, parents, closure, fill)


def propagate_block(block: Array, children: Array, parents: Array) -> None:
    """In place on [rows, terms]: parent = max(parent, child) for each edge, in the order given."""
    worth = block.size >= WORTH and block.dtype == np.float32 and block.flags.c_contiguous
    if worth and (compiled_code := native()) is not None:
        compiled_code.block(block, children, parents)
    else:
        _propagate_block(block, children, parents)


@compiled
def depths(parent_pointer: Array, parent_index: Array) -> Array:
    """Every node's longest distance from a node without parents, int64; -1 for nodes on a cycle or below one."""
    n = len(parent_pointer) - 1
    depth = np.full(n, -1, np.int64)
    changed = True
    while changed:  # as often as the graph is deep, in any order of the nodes
        changed = False
        for node in range(n):
            if depth[node] >= 0:
                continue
            deepest = 0
            for k in range(parent_pointer[node], parent_pointer[node + 1]):
                above = depth[parent_index[k]]
                deepest = max(deepest, above + 1) if above >= 0 and deepest >= 0 else -1
            if deepest >= 0:
                depth[node] = deepest
                changed = True
    return depth


@compiled
def closure_rows(parent_pointer: Array, parent_index: Array) -> tuple[Array, Array]:
    """Every node's ancestors, itself included, ascending, as CSR (int64, int32)."""
    n = len(parent_pointer) - 1
    pointer = np.zeros(n + 1, np.int64)
    index = np.empty(16 * n + 16, np.int32)
    seen = np.full(n, -1, np.int64)
    filled = 0
    for node in range(n):
        start = filled
        # Parents come first, so their closures are there already.
        for k in range(parent_pointer[node], parent_pointer[node + 1]):
            parent = parent_index[k]
            for j in range(pointer[parent], pointer[parent + 1]):
                ancestor = index[j]
                if seen[ancestor] != node:
                    seen[ancestor] = node
                    if filled + 2 > len(index):
                        grown = np.empty(2 * len(index), np.int32)
                        grown[:filled] = index[:filled]
                        index = grown
                    index[filled] = ancestor
                    filled += 1
        if filled + 2 > len(index):
            grown = np.empty(2 * len(index), np.int32)
            grown[:filled] = index[:filled]
            index = grown
        index[filled] = node
        filled += 1
        index[start:filled] = np.sort(index[start:filled])
        pointer[node + 1] = filled
    return pointer, index[:filled].copy()


@compiled
def _grown(array: Array, filled: int, room: int) -> Array:
    larger = np.empty(room, array.dtype)
    larger[:filled] = array[:filled]
    return larger


@compiled
def _collect(marks: Array, into: Array, filled: int) -> int:
    """Clear the marks, and write the marked terms in order to `into[filled:]`; where they end.

    It costs less than sorting what was marked.
    """
    for word in range(len(marks)):
        left = marks[word]
        marks[word] = 0
        while left != 0:
            lowest = left & (~left + ONE)
            into[filled] = word * WORD + BIT[(lowest * DE_BRUIJN) >> TOP_BITS]
            filled += 1
            left ^= lowest
    return filled


@compiled
def _propagate_rows(scores: Rows, parents: Csr, closure: Csr, fill: bool) -> Rows:  # noqa: C901, PLR0912 - one pass per row
    pointer, index, values = scores
    parent_pointer, parent_index = parents
    closure_pointer, closure_index = closure
    n, rows = len(parent_pointer) - 1, len(pointer) - 1
    out_pointer = np.zeros(rows + 1, np.int64)
    room = 4 * len(index) + n + 1
    out_index, out_values = np.empty(room, np.int32), np.empty(room, values.dtype)
    own = np.zeros(n, values.dtype)
    received = np.zeros(n, values.dtype)
    marks = np.zeros(n // WORD + 1, np.uint64)
    for row in range(rows):
        start = out_pointer[row]
        if start + n + 1 > room:
            room = 2 * room + n + 1
            out_index, out_values = _grown(out_index, start, room), _grown(out_values, start, room)
        for j in range(pointer[row], pointer[row + 1]):
            term = index[j]
            if values[j] <= 0:
                continue
            if fill:
                first = own[term] == 0
                own[term] = max(own[term], values[j])
            else:
                # Every ancestor takes the value at once; then nothing has to be passed on below.
                first = received[term] < values[j]
            if first:
                for k in range(closure_pointer[term], closure_pointer[term + 1]):
                    ancestor = closure_index[k]
                    marks[ancestor >> 6] |= ONE << np.uint64(ancestor & 63)
                    if not fill:
                        received[ancestor] = max(received[ancestor], values[j])
        filled = _collect(marks, out_index, start)
        out_pointer[row + 1] = filled
        if not fill:
            for position in range(start, filled):
                out_values[position] = received[out_index[position]]
                received[out_index[position]] = 0
            continue
        for position in range(filled - 1, start - 1, -1):
            term = out_index[position]
            value = own[term] if own[term] > 0 else received[term]
            out_values[position] = value
            own[term] = 0
            received[term] = 0
            for k in range(parent_pointer[term], parent_pointer[term + 1]):
                parent = parent_index[k]
                received[parent] = max(received[parent], value)
    return out_pointer, out_index[: out_pointer[rows]].copy(), out_values[: out_pointer[rows]].copy()


@compiled
def blend_rows(scores: Rows, highest: Rows, parents: Csr, share: float) -> None:
    """In place on the values of `highest`: share x its value + (1 - share) x the lowest own score of it and its ancestors.

    `highest` are the propagated rows of `scores`, so that a row has every term's parents; both have ascending
    indices. A term without a score of its own bounds nothing.
    """
    pointer, index, values = scores
    high_pointer, high_index, high_values = highest
    parent_pointer, parent_index = parents
    n = len(parent_pointer) - 1
    own, lowest = np.zeros(n, values.dtype), np.zeros(n, values.dtype)
    kept, rest = values.dtype.type(share), values.dtype.type(1.0 - share)
    for row in range(len(pointer) - 1):
        for j in range(pointer[row], pointer[row + 1]):
            own[index[j]] = values[j]
        for j in range(high_pointer[row], high_pointer[row + 1]):
            term = high_index[j]
            low = own[term] if own[term] > 0 else np.inf
            for k in range(parent_pointer[term], parent_pointer[term + 1]):
                low = min(low, lowest[parent_index[k]])
            lowest[term] = low
        for j in range(high_pointer[row], high_pointer[row + 1]):
            low, high = lowest[high_index[j]], high_values[j]
            # An infinite one was not scored, nor were its ancestors. The bounds keep rounding from breaking the rule.
            if low < high:
                high_values[j] = max(low, min(high, kept * high + rest * low))
        for j in range(pointer[row], pointer[row + 1]):
            own[index[j]] = 0


@compiled
def union_rows(pointer: Array, index: Array, closure: Csr, out_index: Array) -> Array:
    """Every row's terms with all their ancestors, ascending, into `out_index`; the pointer [rows + 1] of the result."""
    closure_pointer, closure_index = closure
    rows = len(pointer) - 1
    out_pointer = np.zeros(rows + 1, np.int64)
    marks = np.zeros((len(closure_pointer) - 1) // WORD + 1, np.uint64)
    for row in range(rows):
        for j in range(pointer[row], pointer[row + 1]):
            term = index[j]
            if marks[term >> 6] >> np.uint64(term & 63) & ONE:
                continue  # a descendant brought it, and all above it
            for k in range(closure_pointer[term], closure_pointer[term + 1]):
                ancestor = closure_index[k]
                marks[ancestor >> 6] |= ONE << np.uint64(ancestor & 63)
        out_pointer[row + 1] = _collect(marks, out_index, out_pointer[row])
    return out_pointer


@compiled
def _propagate_block(block: Array, children: Array, parents: Array) -> None:
    """Turn BLOCK rows at a time to [term, row], push along the edges, turn back.

    It goes tile by tile so that both sides stay in the cache; the constant length of the
    innermost loop lets it become one vector instruction. A last, shorter block leaves the rest of the turned columns
    as they were, which nobody reads.
    """
    rows, terms = block.shape
    turned = np.zeros((terms, BLOCK), block.dtype)
    for first in range(0, rows, BLOCK):
        held = min(BLOCK, rows - first)
        for start in range(0, terms, TILE):
            end = min(terms, start + TILE)
            for i in range(held):
                for term in range(start, end):
                    turned[term, i] = block[first + i, term]
        for edge in range(len(children)):
            child, parent = children[edge], parents[edge]
            for i in range(BLOCK):
                given, own = turned[child, i], turned[parent, i]
                turned[parent, i] = max(own, given)
        for start in range(0, terms, TILE):
            end = min(terms, start + TILE)
            for i in range(held):
                for term in range(start, end):
                    block[first + i, term] = turned[term, i]


@compiled
def count_parents(columns: Csr, proteins: int, parents: Csr) -> tuple[Array, Array]:
    """For each term: proteins with any of its parents, and with all of them (both 0 without parents).

    `columns` is the label matrix by term (CSC pointer [terms + 1] and protein index).
    """
    pointer, index = columns
    parent_pointer, parent_index = parents
    terms = len(parent_pointer) - 1
    with_any, with_all = np.zeros(terms, np.int64), np.zeros(terms, np.int64)
    term_of = np.full(proteins, -1, np.int64)
    met = np.zeros(proteins, np.int64)
    for term in range(terms):
        needed = parent_pointer[term + 1] - parent_pointer[term]
        for k in range(parent_pointer[term], parent_pointer[term + 1]):
            for j in range(pointer[parent_index[k]], pointer[parent_index[k] + 1]):
                protein = index[j]
                if term_of[protein] != term:
                    term_of[protein] = term
                    met[protein] = 0
                    with_any[term] += 1
                met[protein] += 1
                if met[protein] == needed:
                    with_all[term] += 1
    return with_any, with_all
