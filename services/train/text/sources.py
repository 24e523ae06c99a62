"""Which kind of text `data.text` is, and its records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.train.blocks import Block, read_blocks
from services.train.text.flatfile import REMEDY, read_flat_file
from services.train.text.record import TextRecord
from services.train.text.table import read_table
from shared.errors import MissingInput

SUFFIXES = (".txt", ".dat", ".txt.gz", ".dat.gz")


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Files of one kind: `flat-file` or `table`."""

    kind: str
    paths: tuple[Path, ...]

    @classmethod
    def find(cls, path: Path) -> TextFiles:
        """Recognise a flat file, a table, or a folder of flat files (read in the order of their names).

        Raises:
            MissingInput: nothing there.
            DataError: damaged compression.
        """
        if path.is_dir():
            found = tuple(sorted(item for item in path.iterdir() if item.name.endswith(SUFFIXES)))
            if not found:
                raise MissingInput(f"no {' or '.join(SUFFIXES)} in {path}", where="data.text", remedy=REMEDY)
            return cls("flat-file", found)
        first = next(read_blocks(path, b"\n"), None)
        return cls("flat-file" if first and first.data.startswith(b"ID   ") else "table", (path,))

    @property
    def size_bytes(self) -> int:
        """On disk, all files together."""
        return sum(path.stat().st_size for path in self.paths)

    def read(self, wanted: Collection[str], on_block: Callable[[int], None]) -> Iterator[TextRecord]:
        """Records of wanted proteins; `on_block` hears how many bytes on disk were read so far."""
        before = 0
        reader = read_flat_file if self.kind == "flat-file" else read_table
        for path in self.paths:
            yield from reader(path, wanted, _from(before, on_block))
            before += path.stat().st_size


def _from(before: int, on_block: Callable[[int], None]) -> Callable[[Block], None]:
    return lambda block: on_block(before + block.consumed)
