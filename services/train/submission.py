"""The submission file: protein, term, score; CAFA-6 format, no header.

A protein's terms are its best-scored ones, closed under ancestors, with scores that never rise from a
parent to a child, also after rounding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import sparse

from shared.config import SubmissionConfig
from shared.errors import DataError, MissingInput
from shared.ontology import Ontology

MAX_TERMS = 1500  # a protein, all aspects together; CAFA-6 rules
FIGURES = 3
Line = tuple[int, list[str]]


def submitted(scores: sparse.csr_array, config: SubmissionConfig) -> sparse.csr_array:
    """The scores as they are submitted: rounded, the best of each protein.

    Scores must be propagated over an ontology whose parents come before their children: taking the
    best scores, among equals the first, then takes no term without its ancestors.

    Args:
        scores: [protein, len(ontology)], values in (0, 1].
        config: how many terms, from which score, how many significant figures.

    Returns:
        CSR float64 of the same shape. A protein without any score of at least `min_score` keeps its
        best term (a root); one without any score keeps none.
    """
    rounded = round_significant(scores.data, config.significant_figures)
    kept = rounded >= config.min_score
    before = np.concatenate([[0], np.cumsum(kept)])[scores.indptr]
    for row in np.flatnonzero((np.diff(before) == 0) & (np.diff(scores.indptr) > 0)):
        place = slice(scores.indptr[row], scores.indptr[row + 1])
        kept[place] = best_terms(rounded[place], scores.indices[place], 1)
    for row in np.flatnonzero(np.diff(before) > config.max_terms_per_protein):
        place = slice(scores.indptr[row], scores.indptr[row + 1])
        kept[place] = best_terms(rounded[place], scores.indices[place], config.max_terms_per_protein)
    pointer = np.concatenate([[0], np.cumsum(kept)])[scores.indptr]
    return sparse.csr_array((rounded[kept], scores.indices[kept], pointer), shape=scores.shape)


def best_terms(values: npt.NDArray[np.float64], terms: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.bool_]:
    """Marks the `count` best values; among equals those of the first terms. There must be as many."""
    limit = np.partition(values, len(values) - count)[len(values) - count]
    chosen: npt.NDArray[np.bool_] = values > limit
    equal = np.flatnonzero(values == limit)
    chosen[equal[np.argsort(terms[equal], kind="stable")[: count - int(chosen.sum())]]] = True
    return chosen


def round_significant(values: npt.NDArray[np.floating], figures: int) -> npt.NDArray[np.float64]:
    """Positive numbers rounded to significant figures; the float64 nearest to the decimal number."""
    exact = values.astype(np.float64)
    if not exact.size:
        return exact
    power = (figures - 1 - np.floor(np.log10(exact))).astype(np.int64)
    lowest = power.min()
    scale = (10.0 ** np.arange(lowest, power.max() + 1, dtype=np.float64))[power - lowest]  # of few different powers
    result: npt.NDArray[np.float64] = np.rint(exact * scale) / scale
    return result


def write_submission(
    path: Path, blocks: Iterable[tuple[Sequence[str], sparse.csr_array]], ontology: Ontology, figures: int = FIGURES
) -> int:
    """Write blocks of proteins, best term first; returns the number of lines.

    Raises:
        DataError: a protein has no score at all.
    """
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for ids, scores in blocks:
            for row, protein in enumerate(ids):
                part = slice(scores.indptr[row], scores.indptr[row + 1])
                terms, values = scores.indices[part], scores.data[part]
                if not len(terms):
                    raise DataError(f"no score for {protein}", where=str(path), remedy="Check the model's logits")
                order = np.lexsort((terms, -values))
                file.writelines(
                    f"{protein}\t{ontology.terms[term]}\t{value:.{figures}g}\n"
                    for term, value in zip(terms[order].tolist(), values[order].tolist(), strict=True)
                )
                count += len(terms)
    return count


def validate_submission(
    path: Path,
    ids: Sequence[str],
    ontology: Ontology,
    max_terms: int = MAX_TERMS,
    after_protein: Callable[[], None] = lambda: None,
) -> dict[str, int]:
    """Check every rule of a submission, streamed.

    Rules: three columns; every protein of `ids`, in that order, and no other; live terms of the
    ontology, each once a protein, at most `max_terms` of them; scores in (0, 1] of at most three
    significant figures; with a term all its parents, none of which scores less.

    Args:
        path: the file.
        ids: the test proteins, in order.
        ontology: the terms.
        max_terms: the most terms of a protein.
        after_protein: hears of each.

    Returns:
        Counts: proteins, rows, terms (distinct).

    Raises:
        MissingInput: no such file.
        DataError: a rule is broken; with the line.
    """
    expected = iter(ids)
    proteins = rows = 0
    seen: set[int] = set()
    known: dict[str, float] = {}
    with contextlib.closing(_lines(path)) as numbered:
        for protein, group in groupby(numbered, key=lambda line: line[1][0]):
            lines = list(group)
            where = f"{path}:{lines[0][0]}"
            wanted = next(expected, None)
            if protein != wanted:
                found = f"{protein} where {wanted} should be" if wanted else f"{protein} after the last test protein"
                raise DataError(found, where=where, remedy="A submission has every test protein once, in test order")
            scores = _protein_scores(path, lines, ontology, max_terms, known)
            seen.update(scores)
            proteins += 1
            rows += len(lines)
            after_protein()
    if (absent := next(expected, None)) is not None:
        raise DataError(f"{absent} is missing", where=f"{path}:{rows}", remedy="Every test protein needs a score")
    return {"proteins": proteins, "rows": rows, "terms": len(seen)}


def _lines(path: Path) -> Generator[Line, None, None]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, line in enumerate(file, 1):
                fields = line[:-1].split("\t")
                if len(fields) != 3 or not line.endswith("\n"):
                    raise DataError("not three columns and a line end", where=f"{path}:{number}")
                yield number, fields
    except FileNotFoundError as error:
        raise MissingInput(f"no submission {path}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error.reason}", where=str(path)) from error


def _protein_scores(
    path: Path, lines: Sequence[Line], ontology: Ontology, max_terms: int, known: dict[str, float]
) -> dict[int, float]:
    """Term -> score of one protein, checked. `known` holds the scores that were checked before, by their text."""
    if len(lines) > max_terms:
        what = f"{len(lines)} terms for {lines[0][1][0]}, at most {max_terms} are allowed"
        raise DataError(what, where=f"{path}:{lines[max_terms][0]}")
    scores: dict[int, float] = {}
    for number, (_protein, term, text) in lines:
        index = ontology.index.get(term)
        if index is None or index in scores:
            problem = "is not a live term of the ontology" if index is None else "stands twice"
            raise DataError(f"{term} {problem}", where=f"{path}:{number}")
        value = known.get(text)
        if value is None:
            value = known[text] = _checked_score(text, f"{path}:{number}")
        scores[index] = value
    for place, (index, value) in enumerate(scores.items()):
        for parent in ontology.parents[index]:
            if scores.get(parent, 0.0) < value:
                below = f"scores {scores[parent]}" if parent in scores else "is missing"
                what = f"{ontology.terms[index]} scores {value} and its parent {ontology.terms[parent]} {below}"
                raise DataError(what, where=f"{path}:{lines[place][0]}")
    return scores


def _checked_score(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{text!r} is not a score", where=where) from error
    if not 0 < value <= 1 or math.isnan(value):
        raise DataError(f"the score {text} is not in (0, 1]", where=where)
    if float(f"{value:.{FIGURES}g}") != value:
        raise DataError(f"the score {text} has more than {FIGURES} significant figures", where=where)
    return value
