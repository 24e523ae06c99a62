"""Codecs that write in pieces give the bytes, or the rows, of one that writes at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from services.train.models.inputs import load_annotated, load_labels
from shared.artefacts import LABELS, NPZ, stored_arrays

ARRAYS = {"b/weights": np.arange(12, dtype=np.float32).reshape(3, 4), "a": np.array(["x", "yz"]), "c": np.zeros((0, 2))}


def test_an_npz_file_is_numpys_own(tmp_path: Path) -> None:
    NPZ.write(tmp_path / "ours.npz", ARRAYS)
    np.savez(tmp_path / "numpys.npz", **{name: ARRAYS[name] for name in sorted(ARRAYS)})
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "numpys.npz").read_bytes()


def test_a_stored_array_is_copied_as_it_is(tmp_path: Path) -> None:
    NPZ.write(tmp_path / "first.npz", ARRAYS)
    stored = stored_arrays(tmp_path / "first.npz")
    assert set(stored) == set(ARRAYS)
    NPZ.write(tmp_path / "copied.npz", {f"all/{name}": array for name, array in stored.items()} | {"more": np.ones(2)})
    NPZ.write(tmp_path / "direct.npz", {f"all/{name}": array for name, array in ARRAYS.items()} | {"more": np.ones(2)})
    assert (tmp_path / "copied.npz").read_bytes() == (tmp_path / "direct.npz").read_bytes()


def labels() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.arange(50), rng.integers(0, 6, 50))
    terms = np.concatenate([rng.permutation(9)[:count] for count in np.bincount(rows, minlength=50)])
    table = {"id": [f"P{row}" for row in rows], "term": [f"T{term}" for term in terms]}
    return pd.DataFrame({**table, "aspect": [("MF", "BP", "CC")[term % 3] for term in terms], "stated": terms > 3})


@pytest.mark.parametrize("blocks", [1, 4])
def test_labels_come_back_as_categories(tmp_path: Path, blocks: int) -> None:
    table = labels()
    size = -(-len(table) // blocks)
    LABELS.write(tmp_path / "l.parquet", (table[start : start + size] for start in range(0, len(table), size)))
    assert parquet.read_metadata(tmp_path / "l.parquet").num_row_groups == blocks
    found = LABELS.read(tmp_path / "l.parquet")
    assert [kind.name for kind in found.dtypes] == ["category", "category", "category", "bool"]
    pd.testing.assert_frame_equal(found.astype(dict.fromkeys(("id", "term", "aspect"), "str")), table)


def test_the_form_and_the_order_of_a_label_table_do_not_matter() -> None:
    table = labels()
    ids, terms = [f"P{row}" for row in range(50)], [f"T{term}" for term in (8, 1, 2, 3, 5)]
    categories = table.astype(dict.fromkeys(("id", "term", "aspect"), "category"))
    shuffled = categories.sample(frac=1.0, random_state=1)
    expected = np.zeros((50, 5), np.float32)
    for protein, term in zip(table["id"], table["term"], strict=True):
        if term in terms:
            expected[int(protein[1:]), terms.index(term)] = 1
    for form in (table, categories, shuffled, pd.concat([categories, categories[:7]])):
        found = load_labels(form, ids, terms)
        assert found.has_canonical_format
        np.testing.assert_array_equal(found.toarray(), expected)
        np.testing.assert_array_equal(load_annotated(form, ids), load_annotated(table, ids))
