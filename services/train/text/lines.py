"""Read `external/entryid_text.tsv` back, a line or a block at a time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

HEADER = "EntryID\ttext\n"


def iterate_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield EntryID and text in file order."""
    with path.open(encoding="utf-8", newline="\n") as file:
        next(file)
        for line in file:
            accession, _tab, text = line.rstrip("\n").partition("\t")
            yield accession, text


def blocks_of_texts(path: Path, size: int) -> Iterator[list[tuple[str, str]]]:
    """As `iterate_texts`, up to `size` at a time."""
    texts = iterate_texts(path)
    while block := list(islice(texts, size)):
        yield block
