"""Read a table of EntryID<tab>text, with or without a header line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from services.train.blocks import Block, read_blocks
from services.train.text.record import TextRecord
from shared.errors import DataError

HEADER_NAMES = frozenset({"entryid", "entry", "id", "accession", "protein"})


def read_table(
    path: Path, wanted: Collection[str], on_block: Callable[[Block], None] = lambda _block: None
) -> Iterator[TextRecord]:
    """Yield the wanted proteins' texts in file order; a table has no dates.

    Args:
        path: tab-separated UTF-8 without quoting, plain or gzip.
        wanted: accessions; `sp|ACC|NAME` is read as `ACC`.
        on_block: called after each block that was read, for a progress bar.

    Raises:
        MissingInput: no such file.
        DataError: a line that has not two columns, or is not UTF-8; with file and line.
    """
    for block in read_blocks(path, b"\n"):
        for number, line in enumerate(block.data.split(b"\n"), start=block.line):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            columns = line.split(b"\t")
            if len(columns) != 2:
                raise DataError(f"{len(columns)} columns, not EntryID<tab>text", where=where, remedy="Correct the line")
            try:
                name, text = columns[0].decode("utf-8").strip(), columns[1].decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"not UTF-8: {error}", where=where, remedy="Convert the file to UTF-8") from error
            if number == 1 and name.lower() in HEADER_NAMES:
                continue
            if (accession := _accession(name)) in wanted:
                yield TextRecord((accession,), None, (("text", text),))
        on_block(block)


def _accession(name: str) -> str:
    fields = name.split("|")
    return fields[1] if len(fields) == 3 and fields[0] in ("sp", "tr") else name
