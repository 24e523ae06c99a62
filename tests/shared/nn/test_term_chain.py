"""The chain over parents equals its definition, term by term, and its laws."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.models.base import LOGIT_LIMIT
from shared.nn.term_chain import TermChain, edges_record, restored_edges
from tests.shared.nn.test_term_graph import graphs

seeds = st.integers(0, 1000)


def logits_of(terms: int, seed: int, proteins: int = 5) -> torch.Tensor:
    return 3 * torch.randn(proteins, terms, generator=torch.Generator().manual_seed(seed))


def loop(edges: list[tuple[int, int]], conditional: np.ndarray) -> np.ndarray:
    """Probabilities by the definition; parents have smaller positions."""
    found = conditional.copy()
    for term in range(conditional.shape[1]):
        parents = [parent for child, parent in edges if child == term]
        if parents:
            found[:, term] *= found[:, parents].max(axis=1)
    return found


@settings(deadline=None, max_examples=80)
@given(graphs(), seeds)
def test_equals_a_loop_over_the_terms(graph: tuple[int, list[tuple[int, int]]], seed: int) -> None:
    terms, edges = graph
    logits = logits_of(terms, seed)
    found = torch.sigmoid(TermChain(edges, terms)(logits).double()).numpy()
    wanted = loop(edges, torch.sigmoid(logits.double()).numpy())
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(graphs(), seeds)
def test_the_order_of_the_terms_does_not_matter(graph: tuple[int, list[tuple[int, int]]], seed: int) -> None:
    terms, edges = graph
    moved = torch.randperm(terms, generator=torch.Generator().manual_seed(seed))
    place = torch.argsort(moved).tolist()
    logits = logits_of(terms, seed)
    renamed = TermChain([(place[child], place[parent]) for child, parent in edges], terms)
    torch.testing.assert_close(renamed(logits[:, moved]), TermChain(edges, terms)(logits)[:, moved])


@settings(deadline=None, max_examples=40)
@given(graphs(), seeds)
def test_some_parent_bounds_its_child_and_roots_keep_their_logit(
    graph: tuple[int, list[tuple[int, int]]], seed: int
) -> None:
    terms, edges = graph
    logits = logits_of(terms, seed)
    found = TermChain(edges, terms)(logits)
    for term in range(terms):
        parents = [parent for child, parent in edges if child == term]
        if not parents:
            kept = logits[:, term].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            torch.testing.assert_close(found[:, term], kept, atol=2e-3, rtol=1e-3)
        else:
            assert (found[:, term] <= found[:, parents].amax(1) + 1e-4).all()


def test_gradients_are_those_of_finite_differences() -> None:
    chain = TermChain([(1, 0), (2, 0), (3, 1), (3, 2), (4, 3)], 5)
    logits = logits_of(5, 4, proteins=2).double().clamp(-4, 4).requires_grad_(True)
    assert torch.autograd.gradcheck(chain, (logits,), atol=1e-5)


def test_long_chains_of_improbable_terms_stay_finite() -> None:
    chain = TermChain([(term, term - 1) for term in range(1, 12)], 12)
    logits = torch.full((1, 12), -50.0, requires_grad=True)
    found = chain(logits)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(logits.grad).all()
    torch.testing.assert_close(float(chain(torch.full((1, 12), 50.0))[0, 0]), LOGIT_LIMIT, atol=2e-2, rtol=0)


def test_nothing_to_chain() -> None:
    assert TermChain([], 0)(torch.zeros(3, 0)).shape == (3, 0)
    assert TermChain([(1, 0)], 2)(torch.zeros(0, 2)).shape == (0, 2)


def test_a_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="cycle"):
        TermChain([(1, 0), (0, 1)], 2)


def test_a_record_restores_the_edges() -> None:
    chain = TermChain([(2, 0), (1, 0), (2, 1)], 3)
    assert restored_edges(json.loads(json.dumps(edges_record(chain)))) == chain.edges == ((1, 0), (2, 0), (2, 1))
    assert restored_edges(edges_record(None)) is None
