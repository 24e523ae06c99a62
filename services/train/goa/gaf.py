"""Stream the annotations of wanted proteins out of a GAF 2.x file, in constant memory.

Columns and comments follow "GO Annotation File (GAF) format 2.2" (and 2.0, 2.1, whose columns are the same).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from services.train.blocks import Block, read_blocks
from shared.errors import DataError

KNOWN_VERSIONS = ("2.0", "2.1", "2.2")
MIN_COLUMNS = 15  # up to Assigned_By; the last two are optional and some writers trim them
MAX_COLUMNS = 17
HEADER_KEYS = {
    "gaf-version": "version",
    "generated": "generated",
    "date-generated": "generated",
    "go-version": "go_version",
}


class GafRow(NamedTuple):
    """One annotation of a wanted protein; the values are as written in the file."""

    line: int
    protein: int  # what the caller's mapping gave
    qualifier: bytes
    term: bytes
    code: bytes
    aspect: bytes
    date: bytes


@dataclass(slots=True)
class GafHeader:
    """What the leading comments say; None where they do not. Filled while the file is read."""

    version: str | None = None
    generated: str | None = None
    go_version: str | None = None
    rows: int = field(default=0)  # annotation lines read, of any protein

    def note(self, comment: str, where: str) -> None:
        """Take in one comment line.

        Raises:
            DataError: another format, or a GAF version with other columns.
        """
        key, separator, value = comment.lstrip("!").partition(":")
        key, value = key.strip().lower(), value.strip()
        if separator and key in ("gpa-version", "gpi-version"):
            raise DataError(
                f"a {key[:3].upper()}D file, not GAF", where=where, remedy="Give the GAF file of this release"
            )
        if separator and (name := HEADER_KEYS.get(key)) and getattr(self, name) is None:
            setattr(self, name, value)
            if name == "version" and value not in KNOWN_VERSIONS:
                raise DataError(
                    f"GAF version {value!r} is not one of {', '.join(KNOWN_VERSIONS)}",
                    where=where,
                    remedy="Give a GAF 2.x file",
                )


def read_gaf(
    path: Path,
    proteins: Mapping[bytes, int],
    header: GafHeader,
    on_block: Callable[[Block], None] = lambda _block: None,
) -> Iterator[GafRow]:
    """Yield the annotations whose DB_Object_ID is in `proteins`, in file order.

    Every line's column count is checked, whoever it belongs to; values are checked by whoever uses them.

    Args:
        path: GAF 2.x, plain or gzip.
        proteins: accession -> number given back in `GafRow.protein`.
        header: filled with the leading comments and the number of annotation lines.
        on_block: called after each block that was read, for a progress bar.

    Raises:
        MissingInput: no such file.
        DataError: damaged compression, another format or version, or a line with too few or too many columns.
    """
    for block in read_blocks(path, b"\n"):
        for number, line in enumerate(block.data.split(b"\n"), start=block.line):
            if line[:1] == b"!":
                if header.rows == 0:
                    header.note(line.decode("utf-8", "replace"), f"{path}:{number}")
                continue
            if not line:
                continue
            header.rows += 1
            tabs = line.count(b"\t")
            if not MIN_COLUMNS <= tabs + 1 <= MAX_COLUMNS:
                raise DataError(
                    f"{tabs + 1} columns; a GAF 2.x line has {MIN_COLUMNS} to {MAX_COLUMNS}",
                    where=f"{path}:{number}",
                    remedy="Give a whole, tab-separated GAF file",
                )
            protein = proteins.get(line.split(b"\t", 2)[1])
            if protein is not None:
                columns = line.split(b"\t", 14)
                yield GafRow(number, protein, columns[3], columns[4], columns[6], columns[8], columns[13])
        on_block(block)
