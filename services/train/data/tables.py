"""Readers of the tab-separated inputs: labels, taxonomy and information accretion.

A whole table is parsed and checked at once (half a million rows in well under a second); only when a check
fails is the file read again, line by line, to name the line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from csv import QUOTE_NONE
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from scipy import sparse

from services.train.evaluation_monitors import true_entries
from shared.errors import DataError
from shared.fasta import GZIP_MAGIC, normalise_ids, read_lines
from shared.ontology import ASPECTS, Ontology, normalise_aspect

IntArray = npt.NDArray[np.int64]
MAX_EXAMPLES = 10
LABEL_COLUMNS = ("id", "term", "aspect", "stated")

_TERM = re.compile(r"[A-Za-z]+:\S+")
_TAXON = re.compile(r"[0-9]{1,18}")
_SPACES = " \t\r\v\f\x1c\x1d\x1e\x1f"  # what strips from ASCII, but the newline, which is in no cell
_BLOCK = 1 << 22  # bytes that are parsed at a time
_LABEL_REMEDY = "A row is EntryID, term and aspect, separated by tabs"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of text: row i is `names[codes[i]]`; names are different, and some may be in no row."""

    codes: npt.NDArray[np.int32]
    names: list[str]

    def __getitem__(self, row: int) -> str:
        return self.names[int(self.codes[row])]

    def renamed(self, rename: Callable[[list[str]], list[str]]) -> Column:
        """The same rows under other names: `rename` gives one for each, and may give two the same."""
        names = rename(self.names)
        if names is self.names or names == self.names:
            return self
        code_of = {name: code for code, name in enumerate(dict.fromkeys(names))}
        return Column(np.array([code_of[name] for name in names], np.int32)[self.codes], list(code_of))

    def empty(self) -> npt.NDArray[np.bool_]:
        """The rows without a name."""
        rows: npt.NDArray[np.bool_] = self.codes == (self.names.index("") if "" in self.names else -1)
        return rows

    def where(self, wanted: Callable[[str], bool]) -> npt.NDArray[np.bool_]:
        """The rows whose name is wanted."""
        found: npt.NDArray[np.bool_] = np.array([wanted(name) for name in self.names], np.bool_)[self.codes]
        return found


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of a file; `skipped` header lines are not among the rows."""

    path: Path
    columns: list[Column]
    skipped: int

    def __len__(self) -> int:
        return len(self.columns[0].codes)

    def error(self, row: int, what: str, remedy: str) -> DataError:
        """An error that names the line of a row."""
        line, _ = next(itertools.islice(_filled_lines(self.path), row + self.skipped, None))
        return DataError(what, where=f"{self.path}:{line}", remedy=remedy)

    def check(self, bad: npt.NDArray[np.bool_], what: str, remedy: str) -> None:
        """Raise for the first row that is bad; `what` may hold one {} for each column."""
        if bad.any():
            row = int(np.argmax(bad))
            raise self.error(row, what.format(*(repr(column[row]) for column in self.columns)), remedy)


@dataclass(frozen=True, slots=True)
class Labels:
    """Protein-term pairs as written, with canonical terms; terms that the ontology does not have are left out."""

    proteins: Column
    terms: IntArray  # index into Ontology.terms
    rows: int  # in the file
    dropped: Mapping[str, Mapping[str, Any]]  # "unknown" and "obsolete": terms, rows, examples


def read_labels(path: Path, ontology: Ontology) -> Labels:
    """Read `EntryID term aspect` rows, with or without a header; the aspect column may be absent.

    Raises:
        MissingInput: no such file.
        DataError: a row of other columns, an empty cell, an unknown aspect, an aspect that is not the term's;
            with the line number.
    """
    table = read_table(path, (2, 3), _LABEL_REMEDY, header=lambda cells: not _TERM.fullmatch(cells[1]))
    empty = f"an empty cell in the row {' '.join('{}' for _ in table.columns)}"
    for column in table.columns:
        table.check(column.empty(), empty, _LABEL_REMEDY)
    codes, names = table.columns[1].codes, table.columns[1].names
    resolved = [ontology.resolve(name) for name in names]
    index = np.array([-1 if term is None else ontology.index[term] for term in resolved], np.int64)
    terms = index[codes]
    if len(table.columns) == 3:
        _check_aspects(table, terms, ontology)
    counts = np.bincount(codes, minlength=len(names))
    dropped = {}
    for reason, among in (("obsolete", True), ("unknown", False)):
        lost = [i for i, term in enumerate(resolved) if term is None and (names[i] in ontology.obsolete) is among]
        lost = [i for i in lost if counts[i]]
        examples = sorted(names[i] for i in lost)[:MAX_EXAMPLES]
        dropped[reason] = {"terms": len(lost), "rows": int(counts[lost].sum()), "examples": examples}
    kept = terms >= 0
    proteins = table.columns[0].renamed(normalise_ids)
    return Labels(Column(proteins.codes[kept], proteins.names), terms[kept], len(table), dropped)


def label_matrix(labels: Labels, ids: Sequence[str], terms: int) -> tuple[sparse.csr_array, dict[str, Any]]:
    """Boolean CSR [len(ids), terms] of what is stated, and how many labels name other proteins."""
    row_of = dict(zip(ids, range(len(ids)), strict=True))
    names, codes = labels.proteins.names, labels.proteins.codes
    rows = np.array(list(map(row_of.get, names, itertools.repeat(-1))), np.int64)[codes]
    known = rows >= 0
    shape = (len(ids), terms)
    matrix = sparse.csr_array((np.ones(int(known.sum()), np.bool_), (rows[known], labels.terms[known])), shape=shape)
    matrix.sum_duplicates()
    others = sorted(names[code] for code in np.unique(codes[~known]))
    return matrix, {"proteins": len(others), "rows": int((~known).sum()), "examples": others[:MAX_EXAMPLES]}


def label_frame(
    stated: sparse.csr_array, propagated: sparse.csr_array, ids: Sequence[str], ontology: Ontology
) -> pd.DataFrame:
    """Columns id, term, aspect, stated: one row per label, by protein row and then in the ontology's order.

    Args:
        stated: boolean CSR [len(ids), len(ontology)], as written in the input.
        propagated: the same with all ancestors; column indices sorted.
        ids: of the rows.
        ontology: names the columns.
    """
    rows = np.repeat(np.arange(len(ids)), np.diff(propagated.indptr))
    columns = propagated.indices.astype(np.int64)
    both = (propagated.indptr, propagated.indices), (stated.indptr, stated.indices)
    was_stated = true_entries(*both, len(ontology))
    names = {
        "id": pd.Series(list(ids), dtype="str").take(rows).reset_index(drop=True),
        "term": pd.Series(list(ontology.terms), dtype="str").take(columns).reset_index(drop=True),
        "aspect": pd.Series(list(ASPECTS), dtype="str").take(ontology.aspects[columns]).reset_index(drop=True),
    }
    return pd.DataFrame({**names, "stated": was_stated})[list(LABEL_COLUMNS)]


def read_taxonomy(path: Path) -> dict[str, int]:
    """Taxon of each protein from rows `EntryID taxon`; a header is tolerated.

    Raises:
        MissingInput: no such file.
        DataError: a row of other columns, a taxon that is no number, two taxa for one protein; with the line.
    """
    remedy = "A row is EntryID and NCBI taxon number, separated by a tab"
    table = read_table(path, (2,), remedy, header=lambda cells: not cells[1].isdigit())
    proteins, text = table.columns[0].renamed(normalise_ids), table.columns[1]
    table.check(proteins.empty(), "a taxon without a protein", remedy)
    bad = text.where(lambda cell: not _TAXON.fullmatch(cell))
    table.check(bad, "the taxon {1} of {0} is no number", remedy)
    used = set(text.codes.tolist())
    taxa = np.array([int(name) if code in used else 0 for code, name in enumerate(text.names)], np.int64)[text.codes]
    first = np.empty(len(proteins.names), np.int64)
    first[proteins.codes[::-1]] = np.arange(len(table))[::-1]
    table.check(
        taxa[first[proteins.codes]] != taxa, "{0} has another taxon in an earlier row than {1}", "Keep one of them"
    )
    return {proteins[row]: taxon for row, taxon in enumerate(taxa.tolist())}


def read_information(path: Path, ontology: Ontology) -> tuple[npt.NDArray[np.float32], dict[str, int]]:
    """Information accretion in bits for every term of the ontology; 0 where the file has none, as in cafaeval.

    Raises:
        MissingInput: no such file.
        DataError: a row of other columns, a value that is no number or negative; with the line.
    """
    remedy = "A row is a term and its information accretion in bits, separated by a tab"
    table = read_table(path, (2,), remedy, header=lambda cells: not _TERM.fullmatch(cells[0]))
    values = pd.to_numeric(pd.Series(table.columns[1].names, dtype="str"), errors="coerce").to_numpy(np.float64)
    values = values[table.columns[1].codes]
    bad = ~(np.isfinite(values) & (values >= 0))
    table.check(bad, "the information accretion {1} of {0} is not a number of bits >= 0", remedy)
    information = np.full(len(ontology), np.nan)
    resolved = [ontology.resolve(table.columns[0][row]) for row in range(len(table))]
    for term, value in zip(resolved, values, strict=True):
        if term is not None:
            information[ontology.index[term]] = value
    missing = np.isnan(information)
    counts = {"unknown_terms": resolved.count(None), "terms_without_value": int(missing.sum())}
    return np.where(missing, 0.0, information).astype(np.float32), counts


def read_table(path: Path, widths: tuple[int, ...], remedy: str, header: Callable[[list[str]], bool]) -> Table:
    """Parse a tab-separated file, plain or gzip; cells are stripped, blank lines skipped.

    Args:
        path: the file.
        widths: numbers of columns that are allowed; the first line decides.
        remedy: what a row should look like.
        header: says of the first line's cells whether they are column names.

    Raises:
        MissingInput: no such file.
        DataError: no row, a row of another width, not text, a damaged gzip stream; with the line number.
    """
    number, first = next(_filled_lines(path), (0, b""))
    if number == 0:
        raise DataError("the table is empty", where=str(path), remedy=remedy)
    cells = [cell.strip() for cell in first.decode("utf-8", "replace").removeprefix("\ufeff").split("\t")]
    if len(cells) not in widths:
        expected = " or ".join(map(str, widths))
        raise DataError(f"expected {expected} columns, found {len(cells)}", where=f"{path}:{number}", remedy=remedy)
    skipped = int(header(cells))
    columns = _parse_at_once(path, len(cells))
    if columns is None:
        columns = _parse(path, len(cells), remedy)
    columns = [Column(column.codes[skipped:], column.names).renamed(_stripped) for column in columns]
    if not len(columns[0].codes):
        raise DataError("the table has a header and no row", where=str(path), remedy=remedy)
    return Table(path, columns, skipped)


def _parse_at_once(path: Path, width: int) -> list[Column] | None:
    """The columns of a file all of whose lines have `width` cells; None for anything out of the ordinary."""
    try:
        with pa.input_stream(path, compression="gzip" if _zipped(path) else None) as file:
            names = [str(column) for column in range(width)]
            table = csv.read_csv(
                file,
                read_options=csv.ReadOptions(use_threads=False, column_names=names, block_size=_BLOCK),
                parse_options=csv.ParseOptions(delimiter="\t", quote_char=False, newlines_in_values=False),
                convert_options=csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.dictionary(pa.int32(), pa.string())), strings_can_be_null=False
                ),
            )
    except (pa.ArrowException, OSError):
        return None
    # Cells that are not there are empty; where that may be, the reader of lines says which line it is.
    columns = []
    for column in table.unify_dictionaries().columns:
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in column.chunks])
        columns.append(Column(codes, column.chunk(0).dictionary.to_pylist()))
    return columns


def _parse(path: Path, width: int, remedy: str) -> list[Column]:
    """The columns of any file; slower, and it can say which line is wrong."""
    try:
        frame = pd.read_csv(
            path,
            sep="\t",
            header=None,
            names=[*map(str, range(width)), "beyond"],
            dtype="str",
            na_filter=False,
            quoting=QUOTE_NONE,
            encoding="utf-8-sig",
            compression="gzip" if _zipped(path) else None,
        )
    except (ValueError, EOFError, OSError) as error:
        raise _first_bad_line(path, width, remedy) or DataError(str(error), where=str(path), remedy=remedy) from error
    # A long row reaches the column that should not be there; a short one ends in empty cells.
    if frame.iloc[:, -1].str.strip().ne("").any() or frame.iloc[:, -2].str.strip().eq("").any():
        bad = _first_bad_line(path, width, remedy)
        if bad is not None:
            raise bad
    columns = []
    for name in frame.columns[:-1]:
        codes, names = pd.factorize(frame[name])
        columns.append(Column(codes.astype(np.int32), names.tolist()))
    return columns


def _stripped(names: list[str]) -> list[str]:
    text = "\n".join(names)
    if text.isascii() and not any(space in text for space in _SPACES):
        return names  # mostly; to look for the spaces all at once is much faster
    return list(map(str.strip, names))


def _zipped(path: Path) -> bool:
    with path.open("rb") as probe:
        return probe.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _filled_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, without those that the parser skips as blank."""
    for number, line in read_lines(path):
        content = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).rstrip(b"\r\n")
        if content.strip(b" "):
            yield number, content


def _first_bad_line(path: Path, width: int, remedy: str) -> DataError | None:
    """The first line that is no text or has another number of columns."""
    for number, line in _filled_lines(path):
        where = f"{path}:{number}"
        found = line.count(b"\t") + 1
        if found != width:
            return DataError(f"expected {width} columns, found {found}", where=where, remedy=remedy)
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return DataError(f"not UTF-8 text: {error.reason}", where=where, remedy=remedy)
    return None


def _check_aspects(table: Table, terms: IntArray, ontology: Ontology) -> None:
    """Every aspect is one of the known spellings, and the term's own."""
    codes, names = table.columns[2].codes, table.columns[2].names
    aspects = []
    for code, name in enumerate(names):
        rows = np.flatnonzero(codes == code)
        try:
            aspects.append(ASPECTS.index(normalise_aspect(name)) if len(rows) else -1)
        except DataError as error:
            raise table.error(int(rows[0]), error.what, error.remedy or _LABEL_REMEDY) from error
    written = np.array(aspects, np.int64)[codes]
    wrong = (terms >= 0) & (ontology.aspects[terms] != written)
    if wrong.any():
        row = int(np.argmax(wrong))
        own = ASPECTS[ontology.aspects[terms[row]]]
        what = f"{table.columns[1][row]} is a term of {own}, not of {table.columns[2][row]}"
        raise table.error(row, what, "Correct the aspect, or give the OBO release that the labels were made with")
