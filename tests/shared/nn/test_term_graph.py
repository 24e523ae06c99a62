"""Messages over the term graph equal a plain loop over edges, forward and backward."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.nn.term_graph import Neighbours, TermGraph, ancestor_pairs


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """Terms and (child, parent) edges of a DAG: parents have smaller positions."""
    terms = draw(st.integers(1, 9))
    pairs = [(child, parent) for child in range(terms) for parent in range(child)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return terms, edges


def naive(pairs: list[tuple[int, int]], terms: int, signal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    means, highest = [], []
    for term in range(terms):
        senders = [sender for receiver, sender in pairs if receiver == term] or [term]
        means.append(signal[senders].mean(0))
        highest.append(signal[senders].amax(0))
    return torch.stack(means), torch.stack(highest)


@settings(deadline=None, max_examples=60)
@given(graphs(), st.integers(0, 1000))
def test_aggregation_equals_a_loop_over_edges_forward_and_backward(
    graph: tuple[int, list[tuple[int, int]]], seed: int
) -> None:
    terms, edges = graph
    generator = torch.Generator().manual_seed(seed)
    values, weights = (torch.randn(terms, 6, generator=generator) for _ in range(2))
    neighbours = Neighbours(edges, terms)
    for highest_of in (neighbours.highest, neighbours.gathered_highest):
        expected_input, input_ = (values.clone().requires_grad_() for _ in range(2))
        expected = naive(edges, terms, expected_input)
        found = neighbours.mean(input_), highest_of(input_)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
        for mean, highest in (found, expected):
            ((mean + 3 * highest) * weights).sum().backward()
        torch.testing.assert_close(input_.grad, expected_input.grad)


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_ancestors_are_those_of_networkx(graph: tuple[int, list[tuple[int, int]]]) -> None:
    terms, edges = graph
    reference = nx.DiGraph(edges)
    reference.add_nodes_from(range(terms))
    expected = [(term, above) for term in range(terms) for above in sorted({term} | nx.descendants(reference, term))]
    assert ancestor_pairs(edges, terms) == expected


@settings(deadline=None, max_examples=60)
@given(graphs(), st.integers(0, 1000))
def test_true_path_bounds_are_monotone_along_every_edge(graph: tuple[int, list[tuple[int, int]]], seed: int) -> None:
    terms, edges = graph
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=(terms, 3)).astype(np.float32))
    highest, lowest = TermGraph(edges, terms).true_path(scores)
    assert (lowest <= scores).all()
    assert (scores <= highest).all()
    for child, parent in edges:
        assert (highest[parent] >= highest[child]).all()
        assert (lowest[parent] >= lowest[child]).all()


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        TermGraph([(0, 1), (1, 2), (2, 0)], 3)


def test_messages_keep_proteins_apart() -> None:
    graph = TermGraph([(1, 0), (2, 0)], 3)
    state = torch.randn(3, 4, 5)
    alone = graph.messages(state[:, 1:2])
    for part, whole in zip(alone, graph.messages(state), strict=True):
        torch.testing.assert_close(part, whole[:, 1:2])


def test_messages_come_from_children_parents_and_both() -> None:
    graph = TermGraph([(1, 0), (2, 0), (3, 1)], 4)  # 0 <- 1 <- 3, 0 <- 2
    state = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(4, 1, 1)
    found = [message.flatten().tolist() for message in graph.messages(state)]
    assert found == [
        [3, 8, 4, 8],  # mean of children; a term without any has its own
        [4, 8, 4, 8],
        [1, 1, 1, 2],  # mean of parents
        [1, 1, 1, 2],
        [3, 4.5, 1, 2],  # mean of both
        [4, 8, 1, 2],
    ]
