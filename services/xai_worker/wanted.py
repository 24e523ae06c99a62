"""The two files of a batch: which proteins, and which terms for each or for all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shared.errors import DataError, MissingInput
from shared.fasta import FastaRecord, read_unique_fasta

MAX_BYTES = 512 * 1024 * 1024
_TERM = re.compile(r"GO:\d{7}")


@dataclass(frozen=True, slots=True)
class WantedProteins:
    """Accessions of the run, or the records of a FASTA file; `records` is None for accessions."""

    accessions: tuple[str, ...]
    records: tuple[FastaRecord, ...] | None


@dataclass(frozen=True, slots=True)
class WantedTerms:
    """Terms for all proteins, and (protein, term) pairs."""

    terms: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def read_wanted_proteins(path: Path) -> WantedProteins:
    """Read `--proteins`: a FASTA (plain or gzip), or one accession a line; empty lines and `#` lines are skipped.

    Raises:
        MissingInput: no such file.
        DataError: no protein in it, one named twice, or a line that is no accession.
    """
    if _is_fasta(path):
        records = tuple(read_unique_fasta(path))
        if not records:
            raise DataError("no protein in the file", where=str(path), remedy="Give at least one record")
        return WantedProteins(tuple(record.id for record in records), records)
    accessions: dict[str, int] = {}
    for number, words in _lines(path):
        if len(words) != 1:
            raise DataError(
                f"not one accession: {' '.join(words)!r}", where=f"{path}:{number}", remedy="One accession a line"
            )
        if (earlier := accessions.setdefault(words[0], number)) != number:
            raise DataError(f"{words[0]} is there twice, at lines {earlier} and {number}", where=f"{path}:{number}")
    if not accessions:
        raise DataError("no accession in the file", where=str(path), remedy="One accession a line, or a FASTA file")
    return WantedProteins(tuple(accessions), None)


def read_wanted_terms(path: Path) -> WantedTerms:
    """Read `--terms`: a line with a term asks it of every protein, a line `ACC<tab>GO:...` of that protein.

    Raises:
        MissingInput: no such file.
        DataError: nothing in it, or a line of another form.
    """
    terms: list[str] = []
    pairs: list[tuple[str, str]] = []
    for number, words in _lines(path):
        if not _TERM.fullmatch(words[-1]) or len(words) > 2:
            raise DataError(
                f"not a term, nor an accession and a term: {' '.join(words)!r}",
                where=f"{path}:{number}",
                remedy="Lines are GO:0005524, or ACC, a tab and GO:0005524",
            )
        if len(words) == 1:
            terms.append(words[0])
        else:
            pairs.append((words[0], words[1]))
    if not terms and not pairs:
        raise DataError("no term in the file", where=str(path), remedy="Lines are GO:0005524, or ACC, a tab and a term")
    return WantedTerms(tuple(dict.fromkeys(terms)), tuple(dict.fromkeys(pairs)))


def _is_fasta(path: Path) -> bool:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"larger than {MAX_BYTES} bytes", where=str(path), remedy="Split the batch")
        with path.open("rb") as file:
            start = file.read(4096)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInput(f"no such file: {path}", where="--proteins") from error
    return start.startswith(b"\x1f\x8b") or start.lstrip().startswith(b">")


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingInput(f"no such file: {path}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}", where=str(path)) from error
    found = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
    return [(number, words) for number, words in found if words and not words[0].startswith("#")]
