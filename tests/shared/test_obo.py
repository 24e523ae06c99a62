from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from shared.errors import DataError, MissingInput
from shared.ontology import Ontology
from tests.fakes.ontologies import parse_text

HEAD = "format-version: 1.2\ndata-version: releases/test\n\n"
ROOT = "[Term]\nid: GO:1\nname: root\nnamespace: molecular_function\n\n"


def term(identifier: str, *lines: str, namespace: str = "molecular_function") -> str:
    return "\n".join(["[Term]", f"id: {identifier}", f"name: {identifier}", f"namespace: {namespace}", *lines, "", ""])


def test_reads_relations_modifiers_and_leaves_out_what_is_no_edge(tmp_path: Path) -> None:
    text = (
        HEAD
        + ROOT
        + term(
            "GO:2",
            'is_a: GO:1 {source="x"} ! root',
            "relationship: part_of GO:3 ! three",
            "relationship: regulates GO:9",
        )
    )
    text += term("GO:3", "is_a: GO:1", "alt_id: GO:33", "relationship: part_of GO:7 ! other aspect", "is_a: CHEBI:1")
    text += term("GO:7", namespace="biological_process")
    text += term("GO:8", "is_obsolete: true", "alt_id: GO:88") + term("CHEBI:1", namespace="external")
    text += "[Typedef]\nid: part_of\nname: part of\nnamespace: external\nis_transitive: true\n"
    ontology = parse_text(tmp_path / "a.obo", text)
    assert ontology.terms == ("GO:1", "GO:7", "GO:3", "GO:2")
    assert ontology.parents == ((), (), (0,), (0, 2))
    assert ontology.version == "releases/test"
    assert ontology.roots == {"MF": "GO:1", "BP": "GO:7"}
    assert [ontology.resolve(t) for t in ("GO:3", "GO:33", "GO:8", "GO:88", "GO:404")] == [
        "GO:3",
        "GO:3",
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        pytest.param(HEAD + ROOT + "complete nonsense\n", 9, "not an OBO line", id="garbage"),
        pytest.param(HEAD + ROOT + "[Term]\nid: GO:2\nnam", 11, "not an OBO line", id="cut in a tag"),
        pytest.param(HEAD + ROOT + "[Term]\nid: GO:2\n", 9, "no namespace", id="cut in a stanza"),
        pytest.param(HEAD + ROOT + "[Term]\nname: x\nnamespace: molecular_function\n", 9, "no id", id="no id"),
        pytest.param(HEAD + ROOT + term("GO:2", "is_a: GO:00"), 13, "GO:00, which is undefined", id="cut in an id"),
        pytest.param(
            HEAD + ROOT + term("GO:2", "is_a: GO:8") + term("GO:8", "is_obsolete: true"),
            13,
            "which is obsolete",
            id="obsolete parent",
        ),
        pytest.param(HEAD + ROOT + term("GO:2", "relationship: part_of"), 13, "an id is missing", id="no target"),
        pytest.param(HEAD + ROOT + term("GO:2", "id: GO:3"), 13, "second id", id="two ids"),
        pytest.param(HEAD + ROOT + term("GO:2", namespace="molecular"), 9, "unknown namespace", id="namespace"),
        pytest.param(HEAD + ROOT + term("GO:1"), 9, "defined twice", id="twice"),
        pytest.param("", 0, "no [Term]", id="empty"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_text(tmp_path / "bad.obo", text)
    assert words in caught.value.what
    assert caught.value.where == f"{tmp_path / 'bad.obo'}:{line}"


def test_every_cut_of_a_file_is_read_as_a_smaller_file_or_refused(tmp_path: Path) -> None:
    whole = HEAD + ROOT + term("GO:2", "is_a: GO:1 ! root") + term("GO:3", "is_a: GO:2 ! two")
    for end in range(len(whole)):
        try:
            ontology = parse_text(tmp_path / "cut.obo", whole[:end])
        except DataError:
            continue
        assert set(ontology.terms) <= {"GO:1", "GO:2", "GO:3"}


def test_a_cycle_is_named(tmp_path: Path) -> None:
    text = (
        HEAD
        + ROOT
        + term("GO:2", "is_a: GO:3")
        + term("GO:3", "is_a: GO:4")
        + term("GO:4", "is_a: GO:2")
        + term("GO:5", "is_a: GO:4")
    )
    with pytest.raises(DataError, match="GO:2 -> GO:3 -> GO:4 -> GO:2"):
        parse_text(tmp_path / "cycle.obo", text)
    with pytest.raises(DataError, match="GO:2 -> GO:2"):
        parse_text(tmp_path / "loop.obo", HEAD + ROOT + term("GO:2", "is_a: GO:2"))


def test_gzip_is_read_and_a_cut_gzip_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress((HEAD + ROOT).encode())
    (tmp_path / "a.obo.gz").write_bytes(packed)
    assert Ontology.parse(tmp_path / "a.obo.gz").terms == ("GO:1",)
    (tmp_path / "a.obo.gz").write_bytes(packed[:-12])
    with pytest.raises(DataError, match="damaged gzip"):
        Ontology.parse(tmp_path / "a.obo.gz")
    (tmp_path / "a.obo.gz").write_bytes(b"plain text")
    with pytest.raises(DataError, match="damaged gzip"):
        Ontology.parse(tmp_path / "a.obo.gz")


def test_bytes_that_are_no_text_and_absent_files(tmp_path: Path) -> None:
    (tmp_path / "a.obo").write_bytes(HEAD.encode() + b"\xff\xfe\n")
    with pytest.raises(DataError, match="not UTF-8"):
        Ontology.parse(tmp_path / "a.obo")
    with pytest.raises(MissingInput):
        Ontology.parse(tmp_path / "absent.obo")
