"""Stream records out of UniProtKB flat files (.dat, .txt), of which a .gz may have hundreds of gigabytes.

Format: UniProtKB user manual, "General structure" (two-letter line codes, records ended by `//`).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from services.train.blocks import Block, read_blocks
from services.train.text.record import TextRecord
from shared.errors import DataError

END = b"\n//\n"
REMEDY = "Give UniProtKB flat files (.txt or .dat, also .gz)"
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
# Cross-references that name families and domains; others are numbers, or curated from the same papers as GO.
DOMAIN_DATABASES = frozenset(
    {"InterPro", "Pfam", "PROSITE", "SMART", "Gene3D", "SUPFAM", "PANTHER", "CDD", "HAMAP"}
    | {"NCBIfam", "TIGRFAMs", "PRINTS", "PIRSF", "SFLD"}
)
KIND_BY_CODE = {"DE": "names", "GN": "names", "OS": "organism", "OC": "organism", "RT": "title", "KW": "keywords"}

_ACCESSION_LINES = re.compile(rb"^AC   (.*)$", re.MULTILINE)
_DATE = re.compile(r"^(\d{2})-([A-Z]{3})-(\d{4})\b")
_TOPIC = re.compile(r"^-!- ([A-Z][A-Z /()-]*?):")


def read_flat_file(
    path: Path, wanted: Collection[str], on_block: Callable[[Block], None] = lambda _block: None
) -> Iterator[TextRecord]:
    """Yield the records that have a wanted accession, primary or secondary, in file order.

    Only those are parsed in full; of the others just the accessions are looked at.

    Args:
        path: flat file, plain or gzip.
        wanted: accessions; membership tests must be fast.
        on_block: called after each block that was read, for a progress bar.

    Raises:
        MissingInput: no such file.
        DataError: not a flat file, cut short, or damaged; with file and line.
    """
    for block in read_blocks(path, END):
        for raw, accessions, where in _raw_records(block.data, str(path), block.line):
            if any(name in wanted for name in accessions):
                yield parse_record(raw, accessions, where)
        on_block(block)


def parse_flat_text(data: bytes, name: str) -> list[TextRecord]:
    """Parse all records of a whole flat file in memory; `name` is for messages.

    Raises:
        DataError: as for `read_flat_file`.
    """
    records = _raw_records(data.replace(b"\r", b""), name, 1)
    return [parse_record(raw, accessions, where) for raw, accessions, where in records]


def _raw_records(data: bytes, name: str, line: int) -> Iterator[tuple[bytes, tuple[str, ...], str]]:
    """Each record's lines, its accessions, and file:line of its first line."""
    if data.strip() and not data.endswith((END, END.rstrip())):
        raise DataError("the last record has no end line //", where=f"{name}:{line}", remedy="Get it again")
    for raw in data.split(END):
        if raw.strip():
            if not raw.startswith(b"ID   "):
                raise DataError("a record does not start with an ID line", where=f"{name}:{line}", remedy=REMEDY)
            yield raw, _accessions(raw, f"{name}:{line}"), f"{name}:{line}"
        line += raw.count(b"\n") + 2


def _accessions(raw: bytes, where: str) -> tuple[str, ...]:
    lines = _ACCESSION_LINES.findall(raw)
    names = [name.strip() for line in lines for name in line.decode("ascii", "replace").split(";")]
    names = [name for name in names if name]
    if not names:
        raise DataError("a record has no AC line", where=where, remedy=REMEDY)
    return tuple(names)


def parse_record(raw: bytes, accessions: tuple[str, ...], where: str) -> TextRecord:
    """Parse one record.

    Args:
        raw: its lines, without the end line.
        accessions: what its AC lines say.
        where: file and number of its first line, for messages.

    Raises:
        DataError: not UTF-8, or a DT line without a date.
    """
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}", where=where, remedy="Convert the file to UTF-8") from error
    parts: list[tuple[str, str]] = []
    dates: list[datetime.date] = []
    topic: str | None = None
    for line in lines:
        code, value = line[:2], line[5:].strip()
        if code == "DT":
            dates.append(_date(value, where))
        elif code == "CC":
            topic = _comment(value, topic, parts)
        elif code == "DR":
            _cross_reference(value, parts)
        elif kind := KIND_BY_CODE.get(code):
            _append(parts, kind, value)
    return TextRecord(accessions, max(dates, default=None), tuple(parts))


def _date(value: str, where: str) -> datetime.date:
    match = _DATE.match(value)
    if match is None or match[2] not in MONTHS:
        raise DataError(f"no date at the start of DT {value!r}", where=where, remedy=REMEDY)
    try:
        return datetime.date(int(match[3]), MONTHS.index(match[2]) + 1, int(match[1]))
    except ValueError as error:
        raise DataError(f"DT {value!r}: {error}", where=where, remedy=REMEDY) from error


def _comment(value: str, topic: str | None, parts: list[tuple[str, str]]) -> str | None:
    """Add one CC line; returns the topic that goes on."""
    if value.startswith("-----"):  # the copyright block closes the comments
        return None
    if match := _TOPIC.match(value):
        topic = match[1]
        parts.append((f"comment {topic}", value[match.end() :].strip()))
    elif topic is not None:
        _append(parts, f"comment {topic}", value)
    return topic


def _cross_reference(value: str, parts: list[tuple[str, str]]) -> None:
    database, *fields = [field.strip() for field in value.rstrip(".").split(";")]
    if database == "GO":
        parts.append(("go", " ".join(fields[:2])))
    elif database in DOMAIN_DATABASES and len(fields) > 1:
        parts.append(("domains", fields[1].replace("_", " ")))


def _append(parts: list[tuple[str, str]], kind: str, value: str) -> None:
    """Join the continuation lines of one kind into one part."""
    if parts and parts[-1][0] == kind:
        before = parts[-1][1]
        blank = "" if before.endswith("-") and not before.endswith(" -") else " "  # words are broken after hyphens
        parts[-1] = (kind, f"{before}{blank}{value}")
    else:
        parts.append((kind, value))
