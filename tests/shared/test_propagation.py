"""propagation.cpp against the kernels that run without a compiler: the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import synthetic
from shared import propagation
from shared.ontology import Ontology
from shared.propagation import Native, native


@pytest.fixture(scope="module")
def library() -> Native:
    found = native()
    if found is None:
        pytest.skip("no compiler, or no AVX-512")
    return found


@pytest.fixture(scope="module", params=[1, 15, 16, 33, 500])
def ontology(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ontology:
    path: Path = tmp_path_factory.mktemp("obo") / "go.obo"
    synthetic.write_obo(path, synthetic.make_dag(request.param, namespaces=["biological_process"]))
    return Ontology.parse(path)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 50])
def test_a_dense_block_is_the_other_kernels(library: Native, ontology: Ontology, rows: int) -> None:
    given = np.random.default_rng(rows).random((rows, len(ontology)), np.float32) - 0.3
    given[0, -1] = np.nan  # a parent keeps what it has
    found, wanted = given.copy(), given.copy()
    library.block(found, *ontology.edges)
    propagation._propagate_block(wanted, *ontology.edges)
    assert np.array_equal(found, wanted, equal_nan=True)


@pytest.mark.parametrize("fill", [False, True], ids=["max", "fill"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
@pytest.mark.parametrize("rows", [1, 16, 50])
def test_sparse_rows_are_the_other_kernels(
    library: Native, ontology: Ontology, rows: int, share: float, fill: bool
) -> None:
    """Rows without entries, terms that stand twice in a row, and zeros that are written are among them."""
    rng = np.random.default_rng(rows)
    counts = rng.binomial(len(ontology), share, rows)
    pointer = np.concatenate(([0], counts.cumsum())).astype(np.int64)
    index = rng.integers(0, len(ontology), int(pointer[-1])).astype(np.int32)
    values = np.maximum(rng.random(len(index), np.float32) - 0.2, 0)
    scores = (pointer, index, values)
    found = library.rows(scores, ontology.parent_rows, ontology.closure, fill)
    wanted = propagation._propagate_rows(scores, ontology.parent_rows, ontology.closure, fill)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "without"])
def test_large_scores_ask_for_the_library_and_do_without(
    compiled: bool, ontology: Ontology, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask() -> Native | None:
        asked.append(True)
        return native() if compiled else None

    work: Callable[..., None] = propagation.propagate_block
    monkeypatch.setattr(propagation, "native", ask)
    block = np.random.default_rng(0).random((3, len(ontology)), np.float32)
    wanted = block.copy()
    work(wanted, *ontology.edges)
    assert not asked
    monkeypatch.setattr(propagation, "WORTH", 1)
    work(block, *ontology.edges)
    assert asked
    assert np.array_equal(block, wanted)
