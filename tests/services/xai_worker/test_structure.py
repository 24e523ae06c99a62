from __future__ import annotations

from pathlib import Path

import pytest

from services.xai_worker.structure import Place, place_of, read_structure
from shared.errors import DataError, MissingInput
from tests.fakes.structures import mmcif, pdb

SEQUENCE = "MKKILVILVLLLVILANAMSSKKPLGIASMEPLQGEPIDTPGIKYQLRPAYNTQGAEVLPAQRPYER"


def read(folder: Path, content: bytes, sequence: str = SEQUENCE):  # type: ignore[no-untyped-def]
    path = folder / "model"
    path.write_bytes(content)
    return read_structure(path, "P1", sequence)


@pytest.mark.parametrize(("make", "form"), [(pdb, "pdb"), (mmcif, "mmcif")])
@pytest.mark.parametrize("shift", [0, 100, -10])
def test_numbers_of_the_structure_belong_to_positions_of_the_sequence(tmp_path, make, form, shift) -> None:  # type: ignore[no-untyped-def]
    found = read(tmp_path, make(SEQUENCE, chain="C", shift=shift))
    assert found.format == form
    assert found.identity == 1.0
    assert found.places == {at: Place("C", at + shift) for at in range(1, len(SEQUENCE) + 1)}


def test_a_part_of_the_protein_and_unresolved_residues_are_mapped_and_the_rest_is_not(tmp_path: Path) -> None:
    content = pdb(SEQUENCE[10:50], shift=500, without=range(11, 21))
    found = read(tmp_path, content)
    wanted = {at: Place("A", at - 10 + 500) for at in range(11, 51) if at - 10 not in range(11, 21)}
    assert found.places == wanted
    assert place_of(found, 1) is None


def test_the_chain_that_fits_is_taken(tmp_path: Path) -> None:
    content = pdb("W" * 30, chain="A").replace(b"END\n", b"") + pdb(SEQUENCE, chain="B")
    assert read(tmp_path, content).places[1] == Place("B", 1)


def test_only_the_first_model_counts(tmp_path: Path) -> None:
    content = pdb(SEQUENCE).replace(b"END\n", b"ENDMDL\n") + pdb(SEQUENCE, shift=1000)
    assert read(tmp_path, content).places[1].number == 1


@pytest.mark.parametrize("content", [b"", b"hello", b"data_x\n_atom_site.id\n"])
def test_what_is_no_structure_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="no CA atom"):
        read(tmp_path, content)


def test_another_protein_is_refused_with_the_identity(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no chain is P1: the best agrees in \d+%"):
        read(tmp_path, pdb(SEQUENCE[::-1]))
    with pytest.raises(MissingInput):
        read_structure(tmp_path / "none.pdb", "P1", SEQUENCE)


def test_a_chain_name_cannot_carry_a_command(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no CA atom"):
        read(tmp_path, pdb(SEQUENCE, chain=";"))


def test_without_a_structure_positions_are_those_of_an_alphafold_model() -> None:
    assert place_of(None, 7) == Place("A", 7)
