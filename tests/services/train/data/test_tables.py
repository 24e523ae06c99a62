from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from fakes.ontologies import parse_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.train.data import tables
from services.train.data.tables import label_frame, label_matrix, read_information, read_labels, read_taxonomy
from shared.errors import DataError, MissingInput
from shared.ontology import ASPECTS, Ontology, propagate_labels

OBO = """format-version: 1.2
data-version: releases/test

[Term]
id: GO:0003674
name: molecular_function
namespace: molecular_function

[Term]
id: GO:0000001
name: binding
namespace: molecular_function
alt_id: GO:0000011
is_a: GO:0003674

[Term]
id: GO:0008150
name: biological_process
namespace: biological_process

[Term]
id: GO:0000002
name: growth
namespace: biological_process
is_a: GO:0008150

[Term]
id: GO:0005575
name: cellular_component
namespace: cellular_component

[Term]
id: GO:0000003
name: nucleus
namespace: cellular_component
relationship: part_of GO:0005575

[Term]
id: GO:0000099
name: gone
namespace: molecular_function
is_obsolete: true
"""
SPELLINGS = {
    "MF": ("F", "MF", "MFO", "molecular_function", "f"),
    "BP": ("P", "BP", "BPO", "biological_process"),
    "CC": ("C", "CC", "CCO", "cellular_component"),
}


@pytest.fixture(scope="module")
def ontology(tmp_path_factory: pytest.TempPathFactory) -> Ontology:
    return parse_text(tmp_path_factory.mktemp("obo") / "go.obo", OBO)


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["P1", "P2", "P3", "Q9"]),
        st.sampled_from(["GO:0000001", "GO:0000011", "GO:0000002", "GO:0000003", "GO:0005575"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=20,
)


@given(rows=ROWS, header=st.booleans(), aspect_column=st.booleans(), zipped=st.booleans(), blank=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_labels_in_any_spelling_are_read_back(
    tmp_path, *, ontology, rows, header, aspect_column, zipped, blank
) -> None:
    lines = ["EntryID\tterm\taspect" if aspect_column else "EntryID\tterm"] if header else []
    for protein, term, spelling in rows:
        aspect = ASPECTS[ontology.aspects[ontology.index[ontology.resolve(term)]]]
        written = f"sp|{protein}|X" if spelling == 2 else protein
        lines.append(f"{written}\t{term}" + (f"\t{SPELLINGS[aspect][spelling]}" if aspect_column else ""))
        lines += [""] if blank else []
    data = ("\n".join(lines) + "\n").encode()
    path = tmp_path / "terms.tsv"
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    labels = read_labels(path, ontology)
    stated, others = label_matrix(labels, ["P1", "P2", "P3"], len(ontology))
    frame = label_frame(stated, propagate_labels(stated, ontology), ["P1", "P2", "P3"], ontology)
    expected = {(protein, ontology.resolve(term)) for protein, term, _ in rows if protein != "Q9"}
    written_out = frame[frame["stated"]]
    assert set(zip(written_out["id"], written_out["term"], strict=True)) == expected
    closed = {
        (protein, ontology.terms[a]) for protein, term in expected for a in ontology.ancestors(ontology.index[term])
    }
    assert set(zip(frame["id"], frame["term"], strict=True)) == closed
    assert len(frame) == len(closed)
    assert all(
        aspect == ASPECTS[ontology.aspects[ontology.index[t]]]
        for t, aspect in zip(frame["term"], frame["aspect"], strict=True)
    )
    assert labels.rows == len(rows)
    assert others["rows"] == sum(protein == "Q9" for protein, _, _ in rows)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("P1\tGO:0000001\tF\nP1\tGO:0000002\tX\n", 2, "unknown aspect 'X'"),
        ("EntryID\tterm\taspect\n\nP1\tGO:0000001\tF\n\nP1\tGO:0000002\tF\n", 5, "is a term of BP, not of F"),
        ("P1\tGO:0000011\tC\n", 1, "GO:0000011 is a term of MF, not of C"),
        ("P1\tGO:0000001\tF\nP1\tGO:0000001\n", 2, "expected 3 columns, found 2"),
        ("P1\tGO:0000001\tF\n\nP1\tGO:0000001\tF\tx\n", 3, "expected 3 columns, found 4"),
        ("P1\tGO:0000001\tF\nP1\tGO:0000001\tF\tx\ty\tz\n", 2, "expected 3 columns, found 6"),
        ("P1\tGO:0000001\nP1\tGO:0000001\tF\n", 2, "expected 2 columns, found 3"),
        ("P1 GO:0000001 F\n", 1, "expected 2 or 3 columns, found 1"),
        ("P1\tGO:0000001\tF\n\tGO:0000001\tF\n", 2, "an empty cell"),
        ("P1\tGO:0000001\tF\nP1\tGO:0000001\t\n", 2, "an empty cell"),
        ("P1\tGO:0000001\tF\nP\udcff\tGO:0000001\tF\n", 2, "not UTF-8"),
        ("", None, "empty"),
        ("EntryID\tterm\taspect\n", None, "header and no row"),
    ],
)
def test_wrong_label_files_are_refused_with_the_line(tmp_path: Path, ontology, text, line, says) -> None:
    path = tmp_path / "terms.tsv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError) as caught:
        read_labels(path, ontology)
    assert says in caught.value.what
    assert caught.value.where == (str(path) if line is None else f"{path}:{line}")
    assert caught.value.remedy


def test_lines_are_counted_in_compressed_files_too(tmp_path: Path, ontology: Ontology) -> None:
    path = tmp_path / "terms.tsv.gz"
    rows = ["P1\tGO:0000001\tF"] * 5000
    rows[3210] = "P1\tGO:0000001\tP"
    data = gzip.compress(("\n".join(rows) + "\n").encode(), mtime=0)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"terms\.tsv\.gz:3211"):
        read_labels(path, ontology)
    path.write_bytes(data[: len(data) - 12])
    with pytest.raises(DataError, match="damaged gzip"):
        read_labels(path, ontology)


def test_terms_that_the_ontology_does_not_have_are_counted(tmp_path: Path, ontology: Ontology) -> None:
    path = tmp_path / "terms.tsv"
    path.write_text("P1\tGO:0000099\tP\nP1\tGO:7777777\tF\nP2\tGO:7777777\tF\nP2\tGO:0000011\tF\n")
    labels = read_labels(path, ontology)
    assert [labels.proteins[row] for row in range(len(labels.terms))] == ["P2"]
    assert labels.dropped["obsolete"] == {"terms": 1, "rows": 1, "examples": ["GO:0000099"]}
    assert labels.dropped["unknown"] == {"terms": 1, "rows": 2, "examples": ["GO:7777777"]}


@pytest.mark.parametrize("header", ["", "EntryID\ttaxonomyID\n"])
def test_taxonomy_with_and_without_a_header(tmp_path: Path, header: str) -> None:
    path = tmp_path / "taxonomy.tsv"
    path.write_text(f"{header}P1\t9606\nsp|P2|X\t0\nP1\t9606\n")
    assert read_taxonomy(path) == {"P1": 9606, "P2": 0}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("P1\t9606\nP2\thuman\n", 2, "the taxon 'human' of 'P2' is no number"),
        ("P1\t9606\nP2\t-1\n", 2, "is no number"),
        ("P1\t9606\n\nP1\t10090\n", 3, "another taxon"),
        ("P1\t9606\n\t10090\n", 2, "without a protein"),
        ("P1 9606\n", 1, "expected 2 columns, found 1"),
    ],
)
def test_wrong_taxonomies_are_refused_with_the_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = tmp_path / "taxonomy.tsv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_taxonomy(path)
    assert says in caught.value.what
    assert caught.value.where == f"{path}:{line}"


def test_information_follows_the_ontology(tmp_path: Path, ontology: Ontology) -> None:
    path = tmp_path / "IA.tsv"
    path.write_text("GO:0000011\t1.5\nGO:0008150\t-0.0\nGO:0000099\t3\n")
    information, counts = read_information(path, ontology)
    assert information.dtype == np.float32
    assert {ontology.terms[i]: information[i] for i in np.flatnonzero(information)} == {"GO:0000001": 1.5}
    assert counts == {"unknown_terms": 1, "terms_without_value": len(ontology) - 2}


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf", ""])
def test_wrong_information_is_refused_with_the_line(tmp_path: Path, ontology: Ontology, value: str) -> None:
    path = tmp_path / "IA.tsv"
    path.write_text(f"term\tia\nGO:0000001\t1\nGO:0000002\t{value}\n")
    with pytest.raises(DataError, match="not a number of bits") as caught:
        read_information(path, ontology)
    assert caught.value.where == f"{path}:3"


def test_missing_files_are_missing_input(tmp_path: Path, ontology: Ontology) -> None:
    with pytest.raises(MissingInput):
        read_labels(tmp_path / "absent.tsv", ontology)
    with pytest.raises(MissingInput):
        read_taxonomy(tmp_path / "absent.tsv")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_table_read_at_once_is_the_table_read_by_lines(tmp_path: Path, ending: str, mark: bytes) -> None:
    """What is unusual is left to the slower reader, which says what is wrong."""
    path = tmp_path / "table.tsv"
    text = 'P1\tGO:1 "x\nP2\t GO:2\n\nP1\tNA\nnull\t\nP"3\tGO:1\n'.replace("\n", ending)
    path.write_bytes(mark + text.encode())
    found, wanted = tables._parse_at_once(path, 2), tables._parse(path, 2, "")
    assert found is not None
    rows = [[tuple(column[row] for column in columns) for row in range(5)] for columns in (found, wanted)]
    assert rows[0] == rows[1] == [("P1", 'GO:1 "x'), ("P2", " GO:2"), ("P1", "NA"), ("null", ""), ('P"3', "GO:1")]
    for bad in ("P1\n", "P1\tx\ty\n", "P1\tx\n \nP2\ty\n", "P1\t\udcff\n", ""):
        path.write_bytes(bad.encode("utf-8", "surrogateescape"))
        assert tables._parse_at_once(path, 2) is None
