"""True-path propagation of 3,000 proteins over 5,000 terms beside cafaeval's own, by maximum and by filling."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cafaeval.graph import Graph, propagate
from scipy import sparse

from benchmarks import synthetic
from benchmarks.peers.contest import Contest, Result, Way, interleave
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as line
from shared.ontology import Ontology, propagate_dense, propagate_max

PROTEINS, TERMS, EACH, LEAST = 3000, 5000, 40, 30.0
NAMESPACE = "biological_process"
OURS, THEIRS = "gowhy", "cafaeval"


def compare(rounds: int) -> list[Comparison]:
    """Dense scores by maximum, in place, as the stacker's; sparse scores filled, as the evaluation's."""
    with tempfile.TemporaryDirectory(prefix="gowhy-bench-") as folder:
        ontology, graph = graphs(Path(folder))
    dense = np.random.default_rng(1).random((PROTEINS, TERMS), np.float32) ** 4
    few = sparse_scores(len(ontology))
    contests = {
        f"dense, {PROTEINS} x {TERMS}": contest(ontology, graph, dense, "max", rounds),
        f"{EACH} scores each, {PROTEINS} x {TERMS}": contest(ontology, graph, few, "max", rounds),
        f"filled, {EACH} scores each, {PROTEINS} x {TERMS}": contest(ontology, graph, few, "fill", rounds),
    }
    names = ("propagation max dense", "propagation max sparse", "propagation fill sparse")
    return [
        line(
            found,
            OURS,
            THEIRS,
            name=name,
            sizes=sizes,
            least=LEAST,
            difference=float(np.abs(found.results[OURS] - found.results[THEIRS]).max()),
            tolerance=0.0,
        )
        for name, (sizes, found) in zip(names, contests.items(), strict=True)
    ]


def graphs(folder: Path) -> tuple[Ontology, Graph]:
    """The same graph for both; cafaeval's has the terms in the order of ours."""
    synthetic.write_obo(folder / "go.obo", synthetic.make_dag(TERMS, namespaces=[NAMESPACE]), part_of=0)
    ontology = Ontology.parse(folder / "go.obo")
    terms: dict[str, dict[str, Any]] = {
        term: {
            "name": term,
            "namespace": NAMESPACE,
            "def": "",
            "alt_id": [],
            "rel": [ontology.terms[p] for p in parents],
        }
        for term, parents in zip(ontology.terms, ontology.parents, strict=True)
    }
    return ontology, Graph(NAMESPACE, terms, None, True)


def sparse_scores(terms: int) -> sparse.csr_array:
    """EACH terms per protein, float32."""
    rng = np.random.default_rng(2)
    columns = np.sort(np.stack([rng.choice(terms - 1, EACH, replace=False) + 1 for _ in range(PROTEINS)]))
    values = rng.random(PROTEINS * EACH, np.float32)
    return sparse.csr_array((values, columns.ravel(), np.arange(PROTEINS + 1) * EACH), shape=(PROTEINS, terms))


def contest(ontology: Ontology, graph: Graph, scores: sparse.csr_array | Result, mode: str, rounds: int) -> Contest:
    """Each side starts from the form that it keeps scores in: cafaeval dense float64, ours dense float32 or CSR.

    Both in-place sides work on a copy, which is not timed.
    """
    given: Any = scores
    wide = (given.toarray() if sparse.issparse(given) else given).astype(np.float64)

    def theirs(matrix: Result) -> Result:
        propagate(matrix, graph, graph.order, mode)
        return matrix

    def dense(block: Result) -> Result:
        propagate_dense(block, *ontology.edges)
        return block

    def rows(matrix: sparse.csr_array) -> sparse.csr_array:
        return propagate_max(matrix, ontology, fill=mode == "fill")

    ours: Way = fed(given.copy, rows if sparse.issparse(given) else dense)
    found = interleave({THEIRS: fed(wide.copy, theirs), OURS: ours}, rounds)
    result: Any = found.results[OURS]
    found.results[OURS] = result.toarray() if sparse.issparse(result) else result
    return found


def fed(prepare: Callable[[], Any], work: Callable[[Any], Any]) -> Way:
    """A way whose input is made before the clock starts."""

    def way() -> tuple[float, Result]:
        matrix = prepare()
        started = time.process_time()
        result = work(matrix)
        return time.process_time() - started, result

    return way
