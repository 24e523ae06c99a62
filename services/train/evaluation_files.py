"""Readers of the evaluation's text files: truth, predictions, information accretion. Plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from scipy import sparse

from shared.errors import DataError, MissingInput, from_os_error
from shared.ontology import Ontology

HEADERS = frozenset({"entryid", "protein", "target", "id"})
TEXT_ROW = "Text"  # CAFA-6 submissions may explain themselves in rows of this kind


def read_truth(path: Path, ontology: Ontology) -> tuple[dict[str, int], sparse.csr_array]:
    """Proteins with at least one live term, as id -> row, and their stated terms, boolean CSR.

    Columns protein, term, more are ignored. Unknown and obsolete terms are dropped, as cafaeval does.

    Raises:
        MissingInput: no such file.
        DataError: a line with less than two columns, or no known term at all.
    """
    columns = _column_of(ontology)
    ids: dict[str, int] = {}
    rows, terms = array("q"), array("q")
    for number, fields in _fields(path):
        if number == 1 and fields[0].lower() in HEADERS:
            continue
        if len(fields) < 2:
            raise DataError("expected protein and term", where=f"{path}:{number}")
        column = columns.get(fields[1])
        if column is not None:
            rows.append(ids.setdefault(fields[0], len(ids)))
            terms.append(column)
    if not ids:
        raise DataError(
            "no term of the ontology in the truth", where=str(path), remedy="Check that both are GO, and the columns"
        )
    at = np.frombuffer(rows, np.int64), np.frombuffer(terms, np.int64)
    labels = sparse.csr_array((np.ones(len(rows), np.bool_), at), shape=(len(ids), len(ontology)))
    return ids, labels


def read_predictions(path: Path, ids: Mapping[str, int], ontology: Ontology) -> sparse.csr_array:
    """Scores float64 CSR [len(ids), len(ontology)]; the highest score of a repeated pair counts.

    Proteins that are not in `ids` and unknown terms are skipped, as cafaeval does.

    Raises:
        MissingInput: no such file.
        DataError: a line with less than three columns, or a score outside [0, 1].
    """
    columns = _column_of(ontology)
    shape = (len(ids), len(ontology))
    if (quick := _quick_predictions(path, ids, columns)) is not None:
        return highest(*quick, shape)
    rows, terms, values = array("q"), array("q"), array("d")
    for number, fields in _fields(path):
        if len(fields) < 3:
            raise DataError("expected protein, term and score", where=f"{path}:{number}")
        row, column = ids.get(fields[0]), columns.get(fields[1])
        if row is None or column is None or fields[1] == TEXT_ROW:
            continue
        rows.append(row)
        terms.append(column)
        values.append(_score(fields[2], f"{path}:{number}"))
    return highest(np.frombuffer(rows, np.int64), np.frombuffer(terms, np.int64), np.frombuffer(values), shape)


def _quick_predictions(
    path: Path, ids: Mapping[str, int], columns: Mapping[str, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]] | None:
    """Rows, columns and scores of a plain three-column table, parsed at once; None for anything out of the ordinary.

    What this does not read, the reader of lines reads, or names the line that is wrong.
    """
    try:
        frame = pd.read_csv(
            path,
            sep="\t",
            header=None,
            usecols=[0, 1, 2],
            dtype="category",
            na_filter=False,
            quoting=csv.QUOTE_NONE,
            encoding="utf-8",
        )
        different = np.array([float(text) for text in frame[2].cat.categories])
    except (ValueError, OSError, EOFError, zlib.error):
        return None
    names = [frame[place].cat.categories.tolist() for place in (0, 1)]
    values = different[frame[2].cat.codes.to_numpy()]
    if any(len(name.split()) != 1 or name != name.strip() for known in names for name in known):
        return None
    rows, terms = (
        np.array([known.get(name, -1) for name in of], np.int64)[frame[place].cat.codes.to_numpy()]
        for place, (known, of) in enumerate(zip((ids, columns), names, strict=True))
    )
    kept = (rows >= 0) & (terms >= 0)
    values = values[kept]
    if not ((values >= 0) & (values <= 1)).all():
        return None
    return rows[kept], terms[kept], values


def read_information(path: Path, ontology: Ontology) -> npt.NDArray[np.float64]:
    """Information accretion in bits, one per term of the ontology, 0 for terms that are not in the file.

    Args:
        path: lines of term and bits, maybe gzipped; or a run's `parsed/term_priors.parquet`.
        ontology: names the terms.

    Raises:
        MissingInput: no such file.
        DataError: a line that is not a term and a number, or a table without term and ia.
    """
    bits = np.zeros(len(ontology))
    if path.suffix == ".parquet":
        for term, value in _priors(path):
            if term in ontology.index:
                bits[ontology.index[term]] = value
        return bits
    for number, fields in _fields(path):
        try:
            term, value = fields[0], float(fields[1])
        except (IndexError, ValueError) as error:
            raise DataError("expected term and information accretion", where=f"{path}:{number}") from error
        if term in ontology.index:
            bits[ontology.index[term]] = value
    return bits


def _priors(path: Path) -> Iterator[tuple[str, float]]:
    try:
        table = parquet.read_table(path, columns=["term", "ia"])
    except FileNotFoundError as error:
        raise MissingInput(f"no such file: {path}") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"not a table of term and ia: {error}", where=str(path)) from error
    # A term that no fit protein could have has no accretion; it weighs nothing, as in stage 9.
    bits = np.nan_to_num(table["ia"].to_numpy(), nan=0.0)
    yield from zip(table["term"].to_pylist(), bits.tolist(), strict=True)


def highest(
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    values: npt.NDArray[np.float64],
    shape: tuple[int, int],
) -> sparse.csr_array:
    """CSR of the highest value of each (row, column), without zeros."""
    if not len(values):
        return sparse.csr_array(shape, dtype=np.float64)
    keys = rows * shape[1] + columns
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    best, keys = np.maximum.reduceat(values[order], first), keys[first]
    kept = best > 0
    return sparse.csr_array((best[kept], (keys[kept] // shape[1], keys[kept] % shape[1])), shape=shape)


def _column_of(ontology: Ontology) -> dict[str, int]:
    alternatives = {alternative: ontology.index[term] for alternative, term in ontology.alt_ids.items()}
    return {**alternatives, **ontology.index}


def _score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{text!r} is not a score", where=where) from error
    if not 0 <= value <= 1 or math.isnan(value):
        raise DataError(f"the score {text} is not in [0, 1]", where=where)
    return value


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if fields := line.split():
                    yield number, fields
    except FileNotFoundError as error:
        raise MissingInput(f"no such file: {path}") from error
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise DataError(f"not readable text: {error}", where=f"{path}:{number + 1}") from error
    except OSError as error:
        raise from_os_error(error, str(path)) from error
