"""Small ontologies: random ones for laws, and one fixed example."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from scipy import sparse

from shared.ontology import ASPECTS, Ontology

NAMESPACES = {"MF": "molecular_function", "BP": "biological_process", "CC": "cellular_component"}


def obo_text(ontology: Ontology, relation: str = "is_a: {}") -> str:
    """The ontology as an OBO file."""
    lines = ["format-version: 1.2", "data-version: test", ""]
    for i, term in enumerate(ontology.terms):
        lines += ["[Term]", f"id: {term}", f"name: {ontology.names[i]}"]
        lines.append(f"namespace: {NAMESPACES[ASPECTS[ontology.aspects[i]]]}")
        lines += [f"alt_id: {alt}" for alt, canonical in sorted(ontology.alt_ids.items()) if canonical == term]
        lines += [relation.format(ontology.terms[p]) for p in ontology.parents[i]]
        lines.append("")
    return "\n".join(lines)


def parse_text(path: Path, text: str) -> Ontology:
    """Parse OBO text through a file."""
    path.write_text(text, encoding="utf-8")
    return Ontology.parse(path)


def make_ontology(parents: Sequence[Sequence[int]], aspects: Sequence[int]) -> Ontology:
    """From parent lists whose indices are smaller than the child's; ids in `Ontology` order."""
    return Ontology(
        terms=tuple(f"GO:{i:07d}" for i in range(len(parents))),
        names=tuple(f"term {i}" for i in range(len(parents))),
        aspects=np.array(aspects, np.int8),
        parents=tuple(tuple(sorted(p)) for p in parents),
        alt_ids={},
        obsolete=frozenset(),
        version="test",
    )


@st.composite
def ontologies(draw: st.DrawFn, max_terms: int = 20) -> Ontology:
    """One root per aspect at indices 0, 1, 2; other terms have one to three parents of their aspect."""
    count = draw(st.integers(3, max_terms))
    aspects = [0, 1, 2] + [draw(st.integers(0, 2)) for _ in range(count - 3)]
    parents: list[list[int]] = [[], [], []]
    for i in range(3, count):
        above = [j for j in range(i) if aspects[j] == aspects[i]]
        parents.append(draw(st.lists(st.sampled_from(above), min_size=1, max_size=3, unique=True)))
    return make_ontology(parents, aspects)


@st.composite
def score_matrices(
    draw: st.DrawFn, width: int, rows: int = 4, values: st.SearchStrategy[float] | None = None
) -> np.ndarray:
    """Dense [rows, width], mostly zeros, else multiples of 1/200 (on and between evaluation thresholds)."""
    if values is None:
        values = st.integers(0, 200).map(lambda k: k / 200)
    cell = st.one_of(st.just(0.0), st.just(0.0), values)
    return np.array(draw(st.lists(st.lists(cell, min_size=width, max_size=width), min_size=rows, max_size=rows)))


def csr(dense: np.ndarray, dtype: type = np.float32) -> sparse.csr_array:
    """A dense matrix as CSR."""
    return sparse.csr_array(dense.astype(dtype))
