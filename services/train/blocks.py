"""Read a large, possibly gzip-compressed file in blocks of whole records, in constant memory."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from shared.errors import DataError, MissingInput

BLOCK_BYTES = 1 << 20
MAX_RECORD_BYTES = 64 << 20  # the longest UniProt record has about 2 MB
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Block:
    """Whole records, each ended by the separator (the file's last one perhaps not)."""

    line: int  # number of its first line, from 1
    data: bytes  # never with carriage returns
    consumed: int  # bytes of the file on disk that were read so far


def read_blocks(path: Path, separator: bytes, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """Yield the file's records in order, at least one and about `block_bytes` at a time.

    Compression is recognised by the file's first bytes, not by its name.

    Raises:
        MissingInput: no such file.
        DataError: the compressed data is damaged or ends early, or a record is longer than 64 MiB.
    """
    try:
        raw = path.open("rb")
    except FileNotFoundError as error:
        raise MissingInput(f"no such file: {path}") from error
    with raw:
        packed = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        # GzipFile is a reader like any other; typeshed only does not say so.
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
        line, pending = 1, b""
        while data := _read(stream, block_bytes, path):
            block, pending = _cut(pending + data.replace(b"\r", b""), separator)
            if len(pending) > MAX_RECORD_BYTES:
                raise DataError(f"a record is longer than {MAX_RECORD_BYTES} bytes", where=f"{path}:{line}")
            if block:
                yield Block(line, block, raw.tell())
                line += block.count(b"\n")
        if pending:
            yield Block(line, pending, raw.tell())


def _cut(data: bytes, separator: bytes) -> tuple[bytes, bytes]:
    end = data.rfind(separator)
    return (b"", data) if end < 0 else (data[: end + len(separator)], data[end + len(separator) :])


def _read(stream: IO[bytes], size: int, path: Path) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"the compressed data is damaged or ends early: {error}", where=str(path), remedy="Get the file again"
        ) from error
