"""Structure files of a helix, as text; coordinates are good enough to be drawn."""

from __future__ import annotations

import math
from collections.abc import Collection

THREE = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU", "G": "GLY", "H": "HIS",
    "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE", "P": "PRO", "S": "SER", "T": "THR", "W": "TRP",
    "Y": "TYR", "V": "VAL",
}  # fmt: skip


def place(index: int) -> tuple[float, float, float]:
    """An alpha helix: 100 degrees and 1.5 angstrom per residue, radius 2.3."""
    angle = math.radians(100 * index)
    return 2.3 * math.cos(angle), 2.3 * math.sin(angle), 1.5 * index


def pdb(sequence: str, *, chain: str = "A", shift: int = 0, without: Collection[int] = ()) -> bytes:
    """ATOM records of the CA atoms; `without` are positions, 1-based, that are not resolved."""
    lines = []
    for index, letter in enumerate(sequence):
        if index + 1 not in without:
            x, y, z = place(index)
            lines.append(
                f"ATOM  {index + 1:>5}  CA  {THREE[letter]} {chain}{index + 1 + shift:>4}    "
                f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00 90.00           C  "
            )
    return ("\n".join([*lines, "TER", "END"]) + "\n").encode()


def mmcif(sequence: str, *, chain: str = "A", shift: int = 0) -> bytes:
    """The same as an `_atom_site` loop."""
    columns = (
        "group_PDB", "id", "type_symbol", "label_atom_id", "label_comp_id", "label_asym_id", "label_seq_id",
        "pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z", "auth_asym_id", "auth_seq_id", "pdbx_PDB_model_num",
    )  # fmt: skip
    lines = ["data_model", "#", "loop_", *(f"_atom_site.{name}" for name in columns)]
    for index, letter in enumerate(sequence):
        x, y, z = place(index)
        lines.append(
            f"ATOM {index + 1} C CA {THREE[letter]} Z {index + 1} ? {x:.3f} {y:.3f} {z:.3f} {chain} "
            f"{index + 1 + shift} 1"
        )
    return ("\n".join([*lines, "#"]) + "\n").encode()
