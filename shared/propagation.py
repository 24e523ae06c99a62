"""Compiled kernels that move scores up a DAG whose parents have smaller indices than their children.

Kernels know arrays only; `shared.ontology` holds the public functions. CSR pairs are
(pointer [n + 1], index [pointer[-1]]).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shared.compiled import compiled

Array = npt.NDArray[Any]
Csr = tuple[Array, Array]  # pointer, index
Rows = tuple[Array, Array, Array]  # pointer, index, values
BLOCK = 16  # proteins per block: a column of 16 floats is one cache line


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
def count_closed(scores: Rows, closure: Csr) -> Array:
    """Row pointer [rows + 1] of the ancestor closure of the positive entries of a CSR matrix."""
    pointer, index, values = scores
    closure_pointer, closure_index = closure
    rows = len(pointer) - 1
    counts = np.zeros(rows + 1, np.int64)
    seen = np.full(len(closure_pointer) - 1, -1, np.int64)
    for row in range(rows):
        count = 0
        for j in range(pointer[row], pointer[row + 1]):
            if values[j] > 0 and seen[index[j]] != row:
                for k in range(closure_pointer[index[j]], closure_pointer[index[j] + 1]):
                    ancestor = closure_index[k]
                    if seen[ancestor] != row:
                        seen[ancestor] = row
                        count += 1
        counts[row + 1] = counts[row] + count
    return counts


@compiled
def propagate_rows(scores: Rows, parents: Csr, closure: Csr, out: Rows, fill: bool) -> None:
    """Fill `out` (sized by `count_closed`) with propagated rows, indices ascending.

    Each term gets the maximum of its own value and its children's; with `fill` a term that has a
    value of its own keeps it, and passes that on.
    """
    pointer, index, values = scores
    parent_pointer, parent_index = parents
    closure_pointer, closure_index = closure
    out_pointer, out_index, out_values = out
    n = len(parent_pointer) - 1
    own = np.zeros(n, values.dtype)
    received = np.zeros(n, values.dtype)
    seen = np.full(n, -1, np.int64)
    for row in range(len(pointer) - 1):
        start, filled = out_pointer[row], out_pointer[row]
        for j in range(pointer[row], pointer[row + 1]):
            term = index[j]
            if values[j] <= 0:
                continue
            own[term] = max(own[term], values[j])
            if seen[term] == row:
                continue
            for k in range(closure_pointer[term], closure_pointer[term + 1]):
                ancestor = closure_index[k]
                if seen[ancestor] != row:
                    seen[ancestor] = row
                    out_index[filled] = ancestor
                    filled += 1
        out_index[start:filled] = np.sort(out_index[start:filled])
        for position in range(filled - 1, start - 1, -1):
            term = out_index[position]
            value = own[term] if fill and own[term] > 0 else max(own[term], received[term])
            out_values[position] = value
            own[term] = 0
            received[term] = 0
            for k in range(parent_pointer[term], parent_pointer[term + 1]):
                parent = parent_index[k]
                received[parent] = max(received[parent], value)


@compiled
def propagate_block(block: Array, children: Array, parents: Array, size: int) -> None:
    """In place on [rows, terms]: parent = max(parent, child) for each edge, in the order given."""
    rows, terms = block.shape
    turned = np.empty((terms, size), block.dtype)
    for first in range(0, rows, size):
        held = min(size, rows - first)
        turned[:, :held] = block[first : first + held].T
        for edge in range(len(children)):
            child, parent = children[edge], parents[edge]
            for i in range(held):
                turned[parent, i] = max(turned[parent, i], turned[child, i])
        block[first : first + held] = turned[:, :held].T


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
