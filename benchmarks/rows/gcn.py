"""Mean and maximum over the neighbours of a term graph, forward and backward, beside gather and scatter per edge."""

from __future__ import annotations

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
    """Results [result or gradient, protein, term, feature] of both; the maxima are equal, means up to rounding."""
    graph = synthetic.make_dag(TERMS, namespaces=["biological_process"])
    pairs = [(child, parent) for child, parents in enumerate(graph.parents) for parent in parents]
    pairs = sorted({*pairs, *((parent, child) for child, parent in pairs)})
    neighbours = Neighbours(pairs, TERMS)
    receiver, sender = (torch.tensor(side) for side in zip(*pairs, strict=True))
    signal = torch.randn(PROTEINS, TERMS, FEATURES, generator=torch.Generator().manual_seed(0))
    flat = signal.permute(1, 0, 2).reshape(TERMS, -1).contiguous()

    def theirs() -> Result:
        state = signal.clone().requires_grad_()
        sent = state[:, sender]
        mean = state.index_reduce(1, receiver, sent, reduce="mean", include_self=False)
        highest = state.index_reduce(1, receiver, sent, reduce="amax", include_self=False)
        (mean.square().sum() + highest.square().sum()).backward()  # type: ignore[no-untyped-call]
        return np.stack([array.detach().numpy() for array in (mean, highest, state.grad) if array is not None])

    def ours() -> Result:
        state = flat.clone().requires_grad_()
        mean, highest = neighbours.mean(state), neighbours.highest(state)
        (mean.square().sum() + highest.square().sum()).backward()  # type: ignore[no-untyped-call]
        return np.stack([array.detach().numpy() for array in (mean, highest, state.grad) if array is not None])

    contest = interleave({THEIRS: timed(theirs), OURS: timed(ours)}, rounds)
    found = contest.results[OURS].reshape(3, TERMS, PROTEINS, FEATURES).transpose(0, 2, 1, 3)
    wanted = contest.results[THEIRS]
    return [
        line(
            contest,
            OURS,
            THEIRS,
            name="graph aggregation",
            sizes=f"{TERMS} terms, {len(pairs)} edges, {PROTEINS} x {FEATURES}",
            least=1.5,
            difference=float((np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max()),
            tolerance=1e-6,
        )
    ]
