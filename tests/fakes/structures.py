"""Structure files of a helix, as text; coordinates are good enough to be drawn."""

from __future__ import annotations

import math
from collections.abc import Collection

THREE = {
    "A": "ALA", "R": "ARG", "N": "ASN", "D": "ASP", "C": "CYS", "Q": "GLN", "E": "GLU", "G": "GLY", "H": "HIS",
    "I": "ILE", "L": "LEU", "K": "LYS", "M": "MET", "F": "PHE", "P": "PRO", "S": "SER", "T": "THR", "W": "TRP",
    "Y": "TYR", "V": "VAL",
}  # fmt: skip


# Backbone atoms of an alpha helix in cylinder coordinates: radius and height in angstrom, angle in degrees.
BACKBONE = {"N": (1.55, -27.9, -0.87), "CA": (2.28, 0.0, 0.0), "C": (1.66, 26.2, 1.12), "O": (1.97, 22.5, 2.33)}


HELIX = 27  # residues; the next helix runs back beside it


def place(index: int, atom: str = "CA") -> tuple[float, float, float]:
    """100 degrees and 1.5 angstrom per residue, along x; helices 10 angstrom apart, four in a layer."""
    radius, turn, height = BACKBONE[atom]
    helix, step = divmod(index, HELIX)
    angle = math.radians(100 * step + turn)
    x = 1.5 * step + height
    y, z = radius * math.cos(angle), radius * math.sin(angle)
    if helix % 2:
        x, y = 1.5 * (HELIX - 1) - x, -y  # half a turn about z keeps the helix right-handed
    return x, y + 10 * (helix % 4), z + 10 * (helix // 4)


def pdb(sequence: str, *, chain: str = "A", shift: int = 0, without: Collection[int] = ()) -> bytes:
    """ATOM records of the backbone; `without` are positions, 1-based, that are not resolved."""
    lines = []
    for index, letter in enumerate(sequence):
        if index + 1 not in without:
            for atom in BACKBONE:
                x, y, z = place(index, atom)
                lines.append(
                    f"ATOM  {len(lines) + 1:>5}  {atom:<3} {THREE[letter]} {chain}{index + 1 + shift:>4}    "
                    f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00 90.00           {atom[0]}  "
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
