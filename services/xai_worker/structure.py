"""A structure file that somebody gave for a protein: which residue of the sequence is which residue of the model.

PDB (wwPDB format 3.3, fixed columns of ATOM records) and PDBx/mmCIF (the `_atom_site` loop) are read for their CA
atoms only. Nothing is coloured before the residues agree: a structure of another protein is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal

from shared.errors import DataError, MissingInput

MAX_BYTES = 64 * 1024 * 1024
MIN_IDENTITY = 0.9  # of the chain's residues that stand opposite the sequence
DEFAULT_CHAIN = "A"

_ONE = {
    "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C", "GLN": "Q", "GLU": "E", "GLY": "G", "HIS": "H",
    "ILE": "I", "LEU": "L", "LYS": "K", "MET": "M", "PHE": "F", "PRO": "P", "SER": "S", "THR": "T", "TRP": "W",
    "TYR": "Y", "VAL": "V", "MSE": "M", "SEC": "U", "PYL": "O",
}  # fmt: skip
_CHAIN = re.compile(r"[A-Za-z0-9]{0,8}")
_TOKEN = re.compile(r"'(?:[^']|'(?=\S))*'|\"(?:[^\"]|\"(?=\S))*\"|\S+")
Format = Literal["pdb", "mmcif"]


@dataclass(frozen=True, slots=True)
class Place:
    """A residue as the structure names it: the author's chain and number, and the insertion code, mostly empty."""

    chain: str
    number: int
    insertion: str = ""


@dataclass(frozen=True, slots=True)
class Structure:
    """A structure that fits a protein. `places` maps positions of the sequence, 1-based, to residues of the model."""

    format: Format
    content: bytes
    places: Mapping[int, Place]
    identity: float

    @property
    def extension(self) -> str:
        """Pdb or cif."""
        return "pdb" if self.format == "pdb" else "cif"


@dataclass(frozen=True, slots=True)
class _Residue:
    place: Place
    letter: str


def place_of(structure: Structure | None, position: int) -> Place | None:
    """Where a residue is; without a structure, its position in chain A, as AlphaFold numbers its models."""
    return Place(DEFAULT_CHAIN, position) if structure is None else structure.places.get(position)


def read_structure(path: Path, protein: str, sequence: str) -> Structure:
    """Read a structure and map it to the sequence; of several chains all that fit.

    Raises:
        MissingInput: no such file.
        DataError: too large, not PDB or mmCIF, or of another protein; the message has the identity.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"larger than {MAX_BYTES} bytes", where=str(path), remedy="Give one chain of the structure")
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingInput(f"no such file: {path}", where="--structure") from error
    text = content.decode("utf-8", "replace")
    is_cif = text.lstrip().startswith("data_") or "\n_atom_site." in text
    residues = list(_cif_residues(text) if is_cif else _pdb_residues(text))
    if not residues:
        raise DataError("no CA atom found", where=str(path), remedy="Give a PDB or mmCIF file of the protein")
    places: dict[int, Place] = {}
    best = 0.0
    for chain in dict.fromkeys(item.place.chain for item in residues):
        of_chain = [item for item in residues if item.place.chain == chain]
        found, identity = _aligned(of_chain, sequence)
        best = max(best, identity)
        if identity >= MIN_IDENTITY and not places:
            places = found
    if not places:
        raise DataError(
            f"no chain is {protein}: the best agrees in {best:.0%} of its residues, {MIN_IDENTITY:.0%} are needed",
            where=str(path),
            remedy="Give the structure of this protein",
        )
    return Structure("mmcif" if is_cif else "pdb", content, places, best)


def _aligned(chain: list[_Residue], sequence: str) -> tuple[dict[int, Place], float]:
    """By residue numbers where they are positions, as in AlphaFold models; else by the longest common blocks."""
    numbered = {item.place.number: item for item in chain if not item.place.insertion}
    same = sum(0 < at <= len(sequence) and sequence[at - 1] == item.letter for at, item in numbered.items())
    if same / len(chain) >= MIN_IDENTITY:
        kept = {at: item.place for at, item in numbered.items() if 0 < at <= len(sequence)}
        return kept, same / len(chain)
    letters = "".join(item.letter for item in chain)
    places: dict[int, Place] = {}
    for block in SequenceMatcher(None, letters, sequence, autojunk=False).get_matching_blocks():
        if block.size >= min(5, len(letters)):  # shorter ones match by chance
            for step in range(block.size):
                places[block.b + step + 1] = chain[block.a + step].place
    return places, len(places) / len(chain)


def _pdb_residues(text: str) -> Iterator[_Residue]:
    """CA atoms of the first model; columns as in section ATOM of the format."""
    seen: set[Place] = set()
    for line in text.splitlines():
        if line.startswith("ENDMDL"):
            return
        is_residue = line.startswith("ATOM  ") or (line.startswith("HETATM") and line[17:20] == "MSE")
        if is_residue and line[12:16].strip() == "CA":
            residue = _residue(line[17:20], line[21:22].strip(), line[22:26], line[26:27].strip())
            if residue is not None and residue.place not in seen:
                seen.add(residue.place)
                yield residue


def _cif_residues(text: str) -> Iterator[_Residue]:
    """CA atoms of the first model in the `_atom_site` loop; author numbering, label where the author gave none."""
    columns: list[str] = []
    seen: set[Place] = set()
    model: str | None = None
    for line in text.splitlines():
        if line.startswith("_atom_site."):
            columns.append(line.split()[0].removeprefix("_atom_site."))
        elif columns and line.startswith(("ATOM", "HETATM")):
            row = dict(zip(columns, (_plain(token) for token in _TOKEN.findall(line)), strict=False))
            model = model or row.get("pdbx_PDB_model_num", "1")
            if row.get("label_atom_id") != "CA" or row.get("pdbx_PDB_model_num", model) != model:
                continue
            chain = row.get("auth_asym_id") or row.get("label_asym_id", "")
            number = row.get("auth_seq_id") or row.get("label_seq_id", "")
            residue = _residue(row.get("label_comp_id", ""), chain, number, row.get("pdbx_PDB_ins_code", ""))
            if residue is not None and residue.place not in seen:
                seen.add(residue.place)
                yield residue
        elif columns and line.startswith("#"):
            return


def _plain(token: str) -> str:
    if token in {"?", "."}:
        return ""
    return token[1:-1] if len(token) > 1 and token[0] == token[-1] and token[0] in "'\"" else token


def _residue(name: str, chain: str, number: str, insertion: str) -> _Residue | None:
    """None for what is no amino acid. Chain names go into scripts, so that nothing but letters and digits is taken."""
    letter = _ONE.get(name.strip().upper())
    if letter is None or not _CHAIN.fullmatch(chain) or not _CHAIN.fullmatch(insertion):
        return None
    try:
        return _Residue(Place(chain, int(number), insertion), letter)
    except ValueError:
        return None
