"""Message passing between GO terms: mean and maximum over neighbours, for many proteins at once.

Signals are laid out [term, columns], columns being protein x feature, so that one sparse product
serves a whole batch. A term without neighbours in a direction receives its own value, as in
ProtBoost's graph layer, so that "no children" never reads as "children score 0".
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Edge = tuple[int, int]  # (child, parent), positions in the list of terms


class Neighbours(nn.Module):
    """One direction of a graph: what every term receives from its neighbours.

    Args:
        pairs: (receiver, sender) positions; repeated pairs count once.
        terms: number of terms.
    """

    receiver: torch.Tensor
    sender: torch.Tensor
    degree: torch.Tensor
    selecting: torch.Tensor

    def __init__(self, pairs: Sequence[Edge], terms: int) -> None:
        super().__init__()
        known = set(pairs)
        alone = set(range(terms)) - {receiver for receiver, _ in known}
        ordered = np.array(sorted(known | {(term, term) for term in alone}), np.int64).reshape(-1, 2)
        receiver, sender = ordered[:, 0], ordered[:, 1]
        degree = np.bincount(receiver, minlength=terms)
        # Not persistent: the edges rebuild them.
        self.register_buffer("receiver", torch.from_numpy(receiver.copy()), persistent=False)
        self.register_buffer("sender", torch.from_numpy(sender.copy()), persistent=False)
        self.register_buffer("degree", torch.from_numpy(degree.astype(np.float32)[:, None]), persistent=False)
        ones = np.ones(len(receiver), np.float32)
        self.register_buffer("selecting", _csr(receiver, sender, ones, terms), persistent=False)

    def mean(self, signal: torch.Tensor) -> torch.Tensor:
        """Mean of the neighbours' values; signal and result are [term, columns]."""
        # The sum first: a product with 1 / degree would round once more.
        total: torch.Tensor = torch.sparse.mm(self.selecting, signal)
        return total / self.degree

    def highest(self, signal: torch.Tensor) -> torch.Tensor:
        """Maximum of the neighbours' values; signal and result are [term, columns]."""
        if signal.device.type != "cpu":
            return self.gathered_highest(signal)
        # 25 times faster than gathering (1000 terms, 512 columns), but torch has it for the CPU only.
        highest: torch.Tensor = torch.sparse.mm(self.selecting, signal, "amax")
        return highest

    def gathered_highest(self, signal: torch.Tensor) -> torch.Tensor:
        """The same as `highest`, on any device."""
        sent = signal[self.sender]
        receivers = self.receiver[:, None].expand_as(sent)
        return torch.zeros_like(signal).scatter_reduce(0, receivers, sent, "amax", include_self=False)


class TermGraph(nn.Module):
    """The directions in which evidence travels among the terms of one aspect.

    `from_children`, `from_parents` and `from_both` are the graph network's; `from_descendants` and
    `from_ancestors` include the term itself and carry the true-path rule over any distance.
    """

    def __init__(self, edges: Sequence[Edge], terms: int) -> None:
        super().__init__()
        upward = [(parent, child) for child, parent in edges]
        downward = list(edges)
        closure = ancestor_pairs(edges, terms)
        self.terms = terms
        self.from_children = Neighbours(upward, terms)
        self.from_parents = Neighbours(downward, terms)
        self.from_both = Neighbours(upward + downward, terms)
        self.from_ancestors = Neighbours(closure, terms)
        self.from_descendants = Neighbours([(ancestor, term) for term, ancestor in closure], terms)

    def messages(self, state: torch.Tensor) -> list[torch.Tensor]:
        """Mean and maximum from each direction; state and results are [term, protein, feature]."""
        flat = state.reshape(self.terms, -1)
        return [
            reduced.view(state.shape)
            for direction in (self.from_children, self.from_parents, self.from_both)
            for reduced in (direction.mean(flat), direction.highest(flat))
        ]

    def true_path(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Highest score of a term and its descendants, lowest of it and its ancestors; all [term, protein]."""
        return self.from_descendants.highest(scores), -self.from_ancestors.highest(-scores)


def ancestor_pairs(edges: Sequence[Edge], terms: int) -> list[Edge]:
    """(term, ancestor) for every term and every ancestor it reaches, itself included.

    Raises:
        ValueError: the edges have a cycle.
    """
    parents: list[list[int]] = [[] for _ in range(terms)]
    for child, parent in edges:
        parents[child].append(parent)
    ancestors: list[set[int] | None] = [None] * terms
    for term in parents_first(parents):
        ancestors[term] = {term}.union(*(ancestors[parent] or set() for parent in parents[term]))
    return [(term, ancestor) for term, reached in enumerate(ancestors) for ancestor in sorted(reached or {term})]


def parents_first(parents: Sequence[Sequence[int]]) -> list[int]:
    """Every term after all its parents, given each term's parents.

    Raises:
        ValueError: a term is its own ancestor.
    """
    waiting = [len(set(above)) for above in parents]
    children: list[list[int]] = [[] for _ in parents]
    for child, above in enumerate(parents):
        for parent in set(above):
            children[parent].append(child)
    order = [term for term, count in enumerate(waiting) if count == 0]
    for term in order:  # grows while it is read
        for child in children[term]:
            waiting[child] -= 1
            if waiting[child] == 0:
                order.append(child)
    if len(order) < len(parents):
        raise ValueError("the edges among the terms have a cycle")
    return order


def _csr(
    rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], values: npt.NDArray[np.float32], size: int
) -> torch.Tensor:
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=size))]).astype(np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(columns.copy()),
            torch.from_numpy(values),
            (size, size),
            check_invariants=True,
        )
