"""Reader of protein FASTA files, plain or gzip; the one place where protein ids are normalised.

Headers it knows, on purpose those of CAFA-5 and CAFA-6 too (train and test files differ there):

    >sp|P12345|NAME_HUMAN Some protein OS=... OX=9606 ...
    >P12345 sp|P12345|NAME_HUMAN OX=9606
    >P12345 9606              (space or tab)
    >P12345

All four are the protein `P12345`. Sequences are upper-cased; the 20 amino acids and B, J, O, U, X, Z are
kept as they are, white space inside lines is dropped, and so is a final `*` (stop).
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from shared.collection import uncollected
from shared.errors import DataError, MissingInput, from_os_error
from shared.fasta_scan import (
    HEADER,
    HEADER_END,
    LINES,
    LONGEST_ID,
    NAME,
    NAME_END,
    RESIDUES_END,
    TAXON,
    UNUSUAL,
    scan,
)
from shared.fasta_scan import RESIDUES as RESIDUES_START

RESIDUES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # every letter: 20 amino acids, U, O, and the ambiguity codes B, J, X, Z
GZIP_MAGIC = b"\x1f\x8b"
MAX_ID_LENGTH = LONGEST_ID

_SPACE = b" \t\r\n\v\f"
_LEGAL = RESIDUES.encode()
_TAXON = re.compile(r"(?:^|\s)OX=(\d+)(?=\s|$)")
_ID = re.compile(rf"[A-Za-z0-9_][\x21-\x2e\x30-\x5b\x5d-\x7e]{{0,{MAX_ID_LENGTH - 1}}}")  # no slash: ids name files
_CAPITALS = np.zeros(256, np.uint8)
_CAPITALS[list(_LEGAL)] = _CAPITALS[list(_LEGAL.lower())] = list(_LEGAL)
_PART = 1 << 20  # bytes of a file that are cut into records at a time
_MARK = b"\xef\xbb\xbf"  # of UTF-8, at the start of some files
_REMEDY = "Correct the file: each protein is a line `>ID ...` and then its residues"


class FastaRecord(NamedTuple):
    """One protein. `taxon` is None where the header names none; `line` is the header's, from 1."""

    id: str
    taxon: int | None
    sequence: str
    line: int


@dataclass(frozen=True, slots=True)
class FastaTable:
    """The proteins of a file by column, in its order; see `FastaRecord`."""

    ids: list[str] = field(default_factory=list)  # each once
    taxa: list[int | None] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def records(self) -> list[FastaRecord]:
        """One tuple per protein."""
        with uncollected():
            # As FastaRecord(...), without a call of Python code for each.
            columns = zip(self.ids, self.taxa, self.sequences, self.lines, strict=True)
            return list(map(partial(tuple.__new__, FastaRecord), columns))


def normalise_id(word: str) -> str:
    """`sp|ACC|NAME` and `tr|ACC|NAME` become `ACC`; anything else stays as it is."""
    return (word.split("|", 2)[1] or word) if word.startswith(("sp|", "tr|")) else word


def normalise_ids(words: list[str]) -> list[str]:
    """`normalise_id` of each; at once where there is nothing to do."""
    return list(map(normalise_id, words)) if "|" in "\n".join(words) else words


def parse_header(header: str) -> tuple[str, int | None]:
    """Id and taxon of a header line without its `>`; the id is empty where there is none."""
    header = header.strip()
    if "\t" in header:
        first, _, rest = header.partition("\t")
        first, _, more = first.partition(" ")
        rest = f"{more} {rest}"
    else:
        first, _, rest = header.partition(" ")
    place = header.find("OX=")
    taxon = _TAXON.search(header, max(place - 1, 0)) if place >= 0 else None
    if taxon is not None:
        return normalise_id(first), int(taxon[1])
    words = rest.split()
    if len(words) == 1 and words[0].isascii() and words[0].isdigit():
        return normalise_id(first), int(words[0])
    return normalise_id(first), None


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered raw lines of a file, plain or gzip (told by its first bytes, not by its name).

    Raises:
        MissingInput: no such file.
        DataError: the gzip stream is cut short or damaged; with the line number.
    """
    number = 0
    try:
        with path.open("rb") as probe:
            zipped = probe.read(2) == GZIP_MAGIC
        with gzip.open(path, "rb") if zipped else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line
    except FileNotFoundError as error:
        raise MissingInput(f"no such file: {path}", remedy="Correct the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        remedy = "Fetch or compress the file again"
        raise DataError(f"damaged gzip: {error}", where=f"{path}:{number + 1}", remedy=remedy) from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def read_fasta(path: Path) -> Iterator[FastaRecord]:
    """Yield the proteins of a file in order, one held at a time.

    Raises:
        MissingInput: no such file.
        DataError: no protein in the file, text before the first header, a header without a usable id, an
            empty sequence, an illegal character, a damaged gzip stream; with the line number.
    """
    header: bytes | None = None
    start = 0
    body: list[tuple[int, bytes]] = []
    for number, raw in read_lines(path):
        line = raw.removeprefix(_MARK) if number == 1 else raw
        if line.startswith(b">"):
            if header is not None:
                yield _record(path, header, start, body)
            header, start, body = line[1:], number, []
        elif header is not None:
            body.append((number, line))
        elif line.strip():
            raise DataError(f"text before the first header: {_show(line)}", where=f"{path}:{number}", remedy=_REMEDY)
    if header is None:
        raise DataError("no protein in the file", where=str(path), remedy=_REMEDY)
    yield _record(path, header, start, body)


def read_unique_fasta(path: Path) -> list[FastaRecord]:
    """All proteins of a file, in order; raises as `read_fasta_table`."""
    return read_fasta_table(path).records()


def read_fasta_table(path: Path) -> FastaTable:
    """All proteins of a file, by column.

    Raises:
        DataError: two proteins have the same id; both lines are named. And as `read_fasta`.
    """
    if (quick := _read_at_once(path)) is not None:
        return quick
    table = FastaTable()
    lines: dict[str, int] = {}
    for record in read_fasta(path):
        earlier = lines.setdefault(record.id, record.line)
        if earlier != record.line:
            what = f"protein {record.id} is there twice, at lines {earlier} and {record.line}"
            raise DataError(
                what, where=f"{path}:{record.line}", remedy="Remove one of them; ids are compared without sp|..|.."
            )
        table.ids.append(record.id)
        table.taxa.append(record.taxon)
        table.sequences.append(record.sequence)
        table.lines.append(record.line)
    return table


def _read_at_once(path: Path) -> FastaTable | None:
    """What `read_fasta_table` gives back, some times faster; None for a file that it may refuse.

    The reader of lines then reads it, or names the line that is wrong.
    """
    table = FastaTable()
    line = 1
    try:
        with uncollected():
            for part in _whole_records(path):
                # Room for each mark: one inside a header takes a row too much, and a search for two bytes takes longer.
                rows = np.empty((part.count(b">"), 8), np.int64)
                residues = np.empty(len(part), np.uint8)
                found = scan(np.frombuffer(part, np.uint8), _CAPITALS, rows, residues)
                if found < 0:
                    return None
                rows = rows[:found]
                sequences = residues[: rows[-1, RESIDUES_END]].tobytes().decode("ascii")
                _add(table, part, rows, sequences, line)
                line += int(rows[:, LINES].sum())
    except (EOFError, zlib.error, OSError, UnicodeDecodeError, ValueError):
        return None
    return table if len(set(table.ids)) == len(table) else None


def _add(table: FastaTable, part: bytes, rows: npt.NDArray[np.int64], residues: str, line: int) -> None:
    """Append what `scan` found; a header that it did not understand is read here.

    Raises:
        ValueError: an id that is none.
    """
    text = part.decode("latin-1")  # one character for each byte, so that places stay what they are
    columns = {name: rows[:, name].tolist() for name in (NAME, NAME_END, TAXON, RESIDUES_START, RESIDUES_END)}
    ids = [text[start:end] for start, end in zip(columns[NAME], columns[NAME_END], strict=True)]
    taxa: list[int | None] = columns[TAXON]
    for row in np.flatnonzero(rows[:, TAXON] < 0).tolist():
        taxa[row] = None
        if rows[row, TAXON] == UNUSUAL:
            ids[row], taxa[row] = parse_header(part[rows[row, HEADER] : rows[row, HEADER_END]].decode("utf-8"))
            if not _ID.fullmatch(ids[row]):
                raise ValueError(ids[row])
    table.ids.extend(ids)
    table.taxa.extend(taxa)
    table.sequences.extend(
        residues[start:end] for start, end in zip(columns[RESIDUES_START], columns[RESIDUES_END], strict=True)
    )
    table.lines.extend((line + np.cumsum(rows[:, LINES]) - rows[:, LINES]).tolist())


def _whole_records(path: Path) -> Iterator[bytes]:
    """Parts of a file that start with a header and end before the next one's line.

    Raises:
        ValueError: it does not start with a header.
    """
    with path.open("rb") as probe:
        zipped = probe.read(2) == GZIP_MAGIC
    with gzip.open(path, "rb") if zipped else path.open("rb") as file:
        held = file.read(_PART).removeprefix(_MARK)
        if not held.startswith(b">"):
            raise ValueError("no header at the start")
        while more := file.read(_PART):
            held += more
            end = held.rfind(b"\n>")
            if end >= 0:
                yield _unix(held[: end + 1])
                held = held[end + 1 :]
        yield _unix(held)


def _unix(text: bytes) -> bytes:
    """Lines that end with a newline alone; a search for one byte is many times faster than one for two."""
    return text.replace(b"\r\n", b"\n") if b"\r" in text else text


def index_fasta(path: Path) -> Iterator[tuple[int, int, int]]:
    """Where the proteins of a plain file are: (first byte, bytes, residues), in order; every one is checked.

    Raises:
        DataError: the file is compressed, whose middle cannot be read; and as `read_fasta`.
    """
    with _opened(path) as file:
        if file.read(2) == GZIP_MAGIC:
            raise DataError("a compressed file has no places", where=str(path), remedy=f"gunzip -k {path}")
    header: bytes | None = None
    begin = place = start = 0
    body: list[tuple[int, bytes]] = []
    for number, raw in read_lines(path):
        line = raw.removeprefix(_MARK) if number == 1 else raw
        if line.startswith(b">"):
            if header is not None:
                yield begin, place - begin, len(_record(path, header, start, body).sequence)
            header, start, body, begin = line[1:], number, [], place + len(raw) - len(line)
        elif header is not None:
            body.append((number, line))
        elif line.strip():
            raise DataError(f"text before the first header: {_show(line)}", where=f"{path}:{number}", remedy=_REMEDY)
        place += len(raw)
    if header is None:
        raise DataError("no protein in the file", where=str(path), remedy=_REMEDY)
    yield begin, place - begin, len(_record(path, header, start, body).sequence)


def records_at(path: Path, places: Iterable[tuple[int, int]]) -> Iterator[FastaRecord]:
    """The proteins at (first byte, bytes), as `index_fasta` gave them; their `line` is 1.

    Raises:
        MissingInput: no such file.
        DataError: there is no protein at a place: the file is another one.
    """
    with _opened(path) as file:
        for begin, size in places:
            file.seek(begin)
            lines = file.read(size).splitlines(keepends=True)
            if not lines or not lines[0].startswith(b">"):
                remedy = "The file was changed since it was indexed: start again in an empty folder"
                raise DataError(f"no protein at byte {begin}", where=str(path), remedy=remedy)
            yield _record(path, lines[0][1:], 1, list(enumerate(lines[1:], 2)))


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except FileNotFoundError as error:
        raise MissingInput(f"no such file: {path}", remedy="Correct the path") from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error


def _record(path: Path, header: bytes, start: int, body: list[tuple[int, bytes]]) -> FastaRecord:
    where = f"{path}:{start}"
    try:
        protein, taxon = parse_header(header.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"the header is not UTF-8 text: {error.reason}", where=where, remedy=_REMEDY) from error
    if not _ID.fullmatch(protein):
        what = f"{protein!r} cannot be a protein id" if protein else "a header without an id"
        raise DataError(
            what, where=where, remedy=f"Use up to {MAX_ID_LENGTH} printable ASCII characters without slashes"
        )
    sequence = b"".join(line for _, line in body).translate(None, _SPACE).upper().removesuffix(b"*")
    if sequence.translate(None, _LEGAL):
        raise _illegal(path, protein, body)
    if not sequence:
        raise DataError(f"protein {protein} has an empty sequence", where=where, remedy=_REMEDY)
    return FastaRecord(protein, taxon, sequence.decode("ascii"), start)


def _illegal(path: Path, protein: str, body: list[tuple[int, bytes]]) -> DataError:
    """Name the first character that made a sequence illegal; a `*` may end the sequence and stand nowhere else."""
    last = max(number for number, line in body if line.strip())
    for number, line in body:
        residues = line.translate(None, _SPACE).upper()
        found = (residues.removesuffix(b"*") if number == last else residues).translate(None, _LEGAL)
        if found:
            what = f"protein {protein} has the illegal character {_show(found[:1])}"
            return DataError(
                what, where=f"{path}:{number}", remedy="Residues are letters; remove gaps, digits and marks"
            )
    raise AssertionError("no illegal character in a sequence that has one")


def _show(data: bytes) -> str:
    return repr(data.strip()[:40].decode("utf-8", "backslashreplace"))
