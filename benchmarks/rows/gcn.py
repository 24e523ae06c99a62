"""Mean and maximum over the neighbours of a term graph, forward and backward, beside gather and scatter per edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks import synthetic
from benchmarks.peers.contest import Result, interleave, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as line
from shared.nn.term_graph import Neighbours

TERMS, PROTEINS, FEATURES = 3000, 8, 24
OURS, THEIRS = "gowhy", "index_reduce per edge"


def compare(rounds: int) -> list[Comparison]:
    """Mean, maximum and the gradient of each, [4, term, column]: equal to the last bit.

    Gradients are taken one by one: where both meet in one tensor, their sum is rounded in an order that is autograd's.
    """
    graph = synthetic.make_dag(TERMS, namespaces=["biological_process"])
    pairs = [(child, parent) for child, parents in enumerate(graph.parents) for parent in parents]
    pairs = sorted({*pairs, *((parent, child) for child, parent in pairs)})
    neighbours = Neighbours(pairs, TERMS)
    receiver, sender = (torch.tensor(side) for side in zip(*pairs, strict=True))
    signal = torch.randn(PROTEINS, TERMS, FEATURES, generator=torch.Generator().manual_seed(0))
    flat = signal.permute(1, 0, 2).reshape(TERMS, -1).contiguous()

    def per_edge(kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda state: state.index_reduce(1, receiver, state[:, sender], reduce=kind, include_self=False)

    def both_ways(start: torch.Tensor, kinds: Sequence[Callable[[torch.Tensor], torch.Tensor]]) -> Result:
        found, gradients = [], []
        for reduce in kinds:
            state = start.clone().requires_grad_()
            reduced = reduce(state)
            reduced.square().sum().backward()  # type: ignore[no-untyped-call]
            if state.grad is not None:
                found.append(reduced.detach().numpy())
                gradients.append(state.grad.numpy())
        return np.stack([*found, *gradients])

    ways = {
        THEIRS: timed(lambda: both_ways(signal, (per_edge("mean"), per_edge("amax")))),
        OURS: timed(lambda: both_ways(flat, (neighbours.mean, neighbours.highest))),
    }
    contest = interleave(ways, rounds)
    found = contest.results[OURS].reshape(4, TERMS, PROTEINS, FEATURES).transpose(0, 2, 1, 3)
    return [
        line(
            contest,
            OURS,
            THEIRS,
            name="graph aggregation",
            sizes=f"{TERMS} terms, {len(pairs)} edges, {PROTEINS} x {FEATURES}",
            least=1.5,
            difference=float(np.abs(found - contest.results[THEIRS]).max()),
            tolerance=0.0,
        )
    ]
