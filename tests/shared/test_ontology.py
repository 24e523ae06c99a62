from __future__ import annotations

import tempfile
import time
from pathlib import Path

import networkx
import numpy as np
import obonet
import pytest
from cafaeval.graph import propagate as cafaeval_propagate
from cafaeval.parser import obo_parser
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from shared.errors import DataError
from shared.ontology import (
    ASPECTS,
    Ontology,
    information_accretion,
    normalise_aspect,
    propagate_dense,
    propagate_labels,
    propagate_max,
    term_priors,
)
from tests.fakes.ontologies import NAMESPACES, csr, make_ontology, obo_text, ontologies, score_matrices

# The first example compiles the kernels, which no deadline should measure.
laws = settings(deadline=None, max_examples=50)


@st.composite
def scored(draw: st.DrawFn) -> tuple[Ontology, np.ndarray]:
    ontology = draw(ontologies())
    return ontology, draw(score_matrices(len(ontology)))


def climb(ontology: Ontology, row: np.ndarray, fill: bool = False) -> np.ndarray:
    """The definition, one term at a time."""
    out = row.copy()
    for child in reversed(range(len(ontology))):
        if not (fill and row[child] > 0):
            out[child] = max([row[child], *(out[c] for c in ontology.children[child])])
    return out


@pytest.mark.parametrize(
    ("aspect", "codes"),
    [
        ("MF", ["F", "MF", "MFO", "molecular_function", "mf", " F "]),
        ("BP", ["P", "BP", "BPO", "biological_process", "Biological Process"]),
        ("CC", ["C", "CC", "CCO", "cellular_component"]),
    ],
)
def test_aspects_in_every_spelling(aspect: str, codes: list[str]) -> None:
    assert {normalise_aspect(code) for code in codes} == {aspect}


@pytest.mark.parametrize("code", ["", "X", "B", "MFX", "function"])
def test_unknown_aspects_are_refused(code: str) -> None:
    with pytest.raises(DataError):
        normalise_aspect(code)


@laws
@given(scored())
def test_propagation_is_its_definition_and_obeys_its_laws(case: tuple[Ontology, np.ndarray]) -> None:
    ontology, dense = case
    out = propagate_max(csr(dense), ontology)
    assert np.array_equal(out.toarray(), np.array([climb(ontology, row) for row in dense.astype(np.float32)]))
    assert np.all(out.toarray() >= dense.astype(np.float32))
    assert out.has_canonical_format
    assert out.nnz == np.count_nonzero(out.toarray())
    again = propagate_max(out, ontology)
    assert all(np.array_equal(getattr(again, name), getattr(out, name)) for name in ("data", "indices", "indptr"))
    more = propagate_max(csr(np.minimum(dense + 0.25, 1)), ontology)
    assert np.all(more.toarray() >= out.toarray())


@laws
@given(scored())
def test_fill_is_its_definition(case: tuple[Ontology, np.ndarray]) -> None:
    ontology, dense = case
    out = propagate_max(csr(dense), ontology, fill=True).toarray()
    assert np.array_equal(out, np.array([climb(ontology, row, fill=True) for row in dense.astype(np.float32)]))


@laws
@given(scored())
def test_dense_blocks_and_labels_agree_with_sparse(case: tuple[Ontology, np.ndarray]) -> None:
    ontology, dense = case
    block = np.tile(dense.astype(np.float32), (9, 1))  # more rows than one block
    propagate_dense(block, *ontology.edges)
    assert np.array_equal(block, np.tile(propagate_max(csr(dense), ontology).toarray(), (9, 1)))
    labels = propagate_labels(csr(dense > 0, np.bool_), ontology)
    assert labels.dtype == np.bool_
    assert np.array_equal(labels.toarray(), block[: len(dense)] > 0)


@laws
@given(ontologies(), st.data())
def test_a_subset_keeps_exactly_the_ancestry_among_its_terms(ontology: Ontology, data: st.DataObject) -> None:
    terms = data.draw(st.lists(st.sampled_from(ontology.terms), unique=True))
    edges = ontology.subset_edges(terms)
    whole = networkx.DiGraph([(c, p) for c, parents in enumerate(ontology.parents) for p in parents])
    whole.add_nodes_from(range(len(ontology)))
    ancestry = networkx.transitive_closure(whole).subgraph([ontology.index[t] for t in terms])
    reduced = networkx.transitive_reduction(ancestry)
    assert {(ontology.index[terms[c]], ontology.index[terms[p]]) for c, p in edges} == set(reduced.edges)
    scores = data.draw(score_matrices(len(terms), rows=2)).reshape(2, len(terms))
    block = scores.astype(np.float32)
    propagate_dense(block, *np.array(edges, np.int32).reshape(-1, 2).T)
    wide = np.zeros((2, len(ontology)), np.float32)
    wide[:, [ontology.index[t] for t in terms]] = scores
    assert np.array_equal(block, propagate_max(csr(wide), ontology).toarray()[:, [ontology.index[t] for t in terms]])


@laws
@given(ontologies())
def test_text_and_json_round_trips(ontology: Ontology) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "go.obo"
        path.write_text(obo_text(ontology, "relationship: part_of {} ! why"))
        parsed = Ontology.parse(path)
    again = Ontology.from_json(parsed.to_json())
    for other in (parsed, again):
        assert set(other.terms) == set(ontology.terms)
        assert other.to_json() == parsed.to_json()
        assert all(parent < child for child, parents in enumerate(other.parents) for parent in parents)
        assert np.all(np.diff(other.depth) >= 0)
    for term in ontology.terms:
        names = {ontology.terms[a] for a in ontology.ancestors(ontology.index[term])}
        assert {parsed.terms[a] for a in parsed.ancestors(parsed.index[term])} == names


@pytest.mark.parametrize(
    "change", [{"parents": [[1], []]}, {"names": ["x"]}, {"aspects": ["MF", "XX"]}, {"version": None, "terms": 3}]
)
def test_a_broken_document_is_refused(change: dict[str, object]) -> None:
    document = make_ontology([[], [0]], [0, 0]).to_json()
    with pytest.raises(DataError):
        Ontology.from_json({**document, **change})
    with pytest.raises(DataError):
        Ontology.from_json({k: v for k, v in document.items() if k != next(iter(change))})


def test_wrong_scores_and_wrong_lists_are_refused() -> None:
    ontology = make_ontology([[], [0], [1]], [0, 0, 0])
    for value in (-0.1, np.nan):
        with pytest.raises(DataError, match="negative or not a number"):
            propagate_max(csr(np.array([[0, value, 0.5]])), ontology)
    with pytest.raises(DataError, match="columns"):
        propagate_max(csr(np.zeros((1, 2))), ontology)
    with pytest.raises(DataError, match="not a live term"):
        ontology.subset_edges(["GO:9999999"])
    with pytest.raises(DataError, match="twice"):
        ontology.subset_edges(["GO:0000001", "GO:0000001"])


def test_information_accretion_and_priors_by_hand() -> None:
    #      0 MF root; 1, 2 its children; 3 under both
    ontology = make_ontology([[], [0], [0], [1, 2]], [0, 0, 0, 0])
    labels = csr(np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]), np.bool_)
    expected = [0, np.log2(5 / 4), np.log2(5 / 3), np.log2(3 / 2)]
    assert information_accretion(labels, ontology) == pytest.approx(expected, abs=1e-6)
    raw, conditional = term_priors(labels, ontology)
    assert raw.tolist() == [1, 0.75, 0.5, 0.25]
    assert conditional == pytest.approx([1, 0.75, 0.5, 1 / 3])


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["tiny/go-basic.obo", "go/goslim_generic.obo.gz"])
def test_real_files_are_parsed_as_obonet_parses_them(gowhy_data: Path, name: str) -> None:
    ontology = Ontology.parse(gowhy_data / name)
    graph = obonet.read_obo(str(gowhy_data / name))
    assert set(ontology.terms) == set(graph)
    aspect = {node: normalise_aspect(graph.nodes[node]["namespace"]) for node in graph}
    expected = {
        (c, p)
        for c, p, relation in graph.edges(keys=True)
        if relation in {"is_a", "part_of"} and aspect[c] == aspect[p]
    }
    assert {(ontology.terms[c], ontology.terms[p]) for c, ps in enumerate(ontology.parents) for p in ps} == expected
    assert {term: ASPECTS[a] for term, a in zip(ontology.terms, ontology.aspects, strict=True)} == aspect
    assert dict(zip(ontology.terms, ontology.names, strict=True)) == dict(graph.nodes(data="name"))
    assert ontology.roots == {"MF": "GO:0003674", "BP": "GO:0008150", "CC": "GO:0005575"}


@pytest.mark.real_data
def test_the_whole_of_go_is_parsed_in_seconds(gowhy_data: Path) -> None:
    started = time.process_time()
    ontology = Ontology.parse(gowhy_data / "go/go-basic.obo.gz")
    assert time.process_time() - started < 3
    assert len(ontology) == 43_987
    assert len(ontology.closure[1]) == sum(len(ontology.ancestors(i)) for i in range(len(ontology)))


@pytest.mark.real_data
@pytest.mark.parametrize("mode", ["max", "fill"])
def test_real_go_is_propagated_as_cafaeval_propagates(gowhy_data: Path, mode: str) -> None:
    path = gowhy_data / "tiny/go-basic.obo"
    ontology = Ontology.parse(path)
    generator = np.random.default_rng(4)
    dense = np.zeros((12, len(ontology)))
    for row in dense:
        row[generator.integers(0, len(ontology), 60)] = generator.random(60)
    ours = propagate_max(csr(dense, np.float64), ontology, fill=mode == "fill").toarray()
    for aspect, namespace in NAMESPACES.items():
        graph = obo_parser(path)[namespace]
        columns = [ontology.index[entry["id"]] for entry in graph.terms_list]
        theirs = dense[:, columns]
        cafaeval_propagate(theirs, graph, graph.order, mode)
        assert np.array_equal(theirs, ours[:, columns]), aspect


@pytest.mark.real_data
def test_real_information_accretion_is_that_of_the_cafa_tool(gowhy_data: Path) -> None:
    ontology = Ontology.parse(gowhy_data / "tiny/go-basic.obo")
    rows: dict[str, int] = {}
    pairs = []
    for line in (gowhy_data / "tiny/train_terms.tsv").read_text().splitlines()[1:]:
        protein, term, _aspect = line.split("\t")
        pairs.append((rows.setdefault(protein, len(rows)), ontology.index[ontology.resolve(term) or ""]))
    at = tuple(np.array(pairs).T)
    labels = sparse.csr_array((np.ones(len(pairs), np.bool_), at), shape=(len(rows), len(ontology)))
    ours = information_accretion(propagate_labels(labels, ontology), ontology)
    for line in (gowhy_data / "tiny/IA.tsv").read_text().splitlines():
        term, bits = line.split("\t")
        assert ours[ontology.index[term]] == pytest.approx(float(bits), abs=1e-6), term
