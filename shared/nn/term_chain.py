"""From P(term | one of its parents) to P(term): the chain over the parents, from the roots down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from shared.models.base import LOGIT_LIMIT
from shared.models.features import FloatArray
from shared.nn.term_graph import Edge, parents_first


class TermChain(nn.Module):
    """P(term) = P(term | any parent) x P(its most probable parent).

    A model fitted to conditional targets has learnt the first factor. The second stands for P(any parent), of
    which it is the lower bound. ProtBoost (CAFA5, 2nd place) takes 1 - product of (1 - P(parent)), as if parents
    were independent; they are not, they share their ancestors, and over many levels the excess grows
    (docs/results.md has both). So no term becomes more likely than all its parents, and one without parents keeps
    its probability.

    Args:
        edges: (child, parent) positions among the terms.
        terms: number of terms.

    Raises:
        ValueError: the edges have a cycle.
    """

    order: torch.Tensor
    place: torch.Tensor

    def __init__(self, edges: Sequence[Edge], terms: int) -> None:
        super().__init__()
        parents: list[list[int]] = [[] for _ in range(terms)]
        for child, parent in sorted({(int(child), int(parent)) for child, parent in edges}):
            parents[child].append(parent)
        depth = np.zeros(terms, np.int64)
        for term in parents_first(parents):
            depth[term] = max((depth[parent] + 1 for parent in parents[term]), default=0)
        order = np.lexsort((np.arange(terms), depth))
        place = np.argsort(order)
        self.edges = tuple((child, parent) for child, above in enumerate(parents) for parent in above)
        self.sizes = np.bincount(depth).tolist()
        # Not persistent: the edges rebuild them.
        self.register_buffer("order", torch.from_numpy(order), persistent=False)
        self.register_buffer("place", torch.from_numpy(place), persistent=False)
        for number, size in enumerate(self.sizes):
            first = sum(self.sizes[:number])
            pairs = [(row, place[parent]) for row in range(size) for parent in parents[order[first + row]]]
            for name, column in (("receiver", 0), ("sender", 1)):
                index = torch.tensor([int(pair[column]) for pair in pairs], dtype=torch.int64)
                self.register_buffer(f"{name}{number}", index, persistent=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Conditional logits [B, term] -> unconditional ones; differentiable."""
        if not self.sizes:
            return logits
        own = functional.logsigmoid(logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))[:, self.order]
        levels = list(torch.split(own, self.sizes, dim=1))  # ln P
        for number in range(1, len(levels)):
            receiver, sender = self.get_buffer(f"receiver{number}"), self.get_buffer(f"sender{number}")
            sent = torch.cat(levels[:number], dim=1)[:, sender]
            best = torch.empty_like(levels[number]).scatter_reduce(
                1, receiver.expand_as(sent), sent, "amax", include_self=False
            )
            levels[number] = levels[number] + best
        found = torch.cat(levels, dim=1)[:, self.place]
        return found - torch.log(-torch.expm1(found))

    def unconditional(self, logits: FloatArray) -> FloatArray:
        """`forward` of an array [protein, term]."""
        with torch.no_grad():
            found: FloatArray = self(torch.from_numpy(logits)).numpy()
        return found


def edges_record(chain: TermChain | None) -> dict[str, Any]:
    """What a model's architecture says of its chain: nothing without one."""
    return {} if chain is None else {"chain": [list(edge) for edge in chain.edges]}


def restored_edges(architecture: Mapping[str, Any]) -> tuple[Edge, ...] | None:
    """The inverse of `edges_record`."""
    found = architecture.get("chain")
    return None if found is None else tuple((int(child), int(parent)) for child, parent in found)
