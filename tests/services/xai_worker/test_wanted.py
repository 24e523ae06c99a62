from __future__ import annotations

from pathlib import Path

import pytest

from services.xai_worker.wanted import WantedTerms, read_wanted_proteins, read_wanted_terms
from shared.errors import DataError, MissingInput


def write(folder: Path, text: str) -> Path:
    path = folder / "wanted"
    path.write_text(text)
    return path


def test_accessions_stand_one_a_line(tmp_path: Path) -> None:
    found = read_wanted_proteins(write(tmp_path, "# mine\nP1\n\n  P2 \n"))
    assert found.accessions == ("P1", "P2")
    assert found.records is None


def test_a_fasta_is_told_by_its_first_character(tmp_path: Path) -> None:
    found = read_wanted_proteins(write(tmp_path, "\n>sp|P1|X_HUMAN OX=9606\nMKV\n>B\nGGG\n"))
    assert found.accessions == ("P1", "B")
    assert found.records is not None
    assert [(r.sequence, r.taxon) for r in found.records] == [("MKV", 9606), ("GGG", None)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no accession"),
        ("P1\nP1\n", "P1 is there twice, at lines 1 and 2"),
        ("P1 GO:0005524\n", "not one accession"),
        (">A\nMK\n>A\nMK\n", "A is there twice"),
    ],
)
def test_a_wrong_protein_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_wanted_proteins(write(tmp_path, text))


def test_terms_are_for_all_or_for_one(tmp_path: Path) -> None:
    found = read_wanted_terms(write(tmp_path, "GO:0005524\nP1\tGO:0016020\nP1 GO:0003677\nGO:0005524\n"))
    assert found == WantedTerms(("GO:0005524",), (("P1", "GO:0016020"), ("P1", "GO:0003677")))


@pytest.mark.parametrize("text", ["", "ATP binding\n", "P1\tGO:1\n", "P1\tP2\tGO:0005524\n", "GO:0005524 P1\n"])
def test_a_wrong_term_file_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="term"):
        read_wanted_terms(write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_wanted_proteins, read_wanted_terms):
        with pytest.raises(MissingInput, match="none"):
            read(tmp_path / "none")
