"""Which annotations become priors, and in which channel.

A channel is an evidence code of its own, `other` for the rest, or `NOT` for negated rows. A protein's
annotations are numbers in one sorted array, `(protein * channels + channel) * terms + term`, so that
memory grows with the wanted annotations and not with the file.
"""

from __future__ import annotations

import datetime
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from services.train.goa.gaf import GafRow
from services.train.goa.graph import TermTable
from shared.errors import DataError
from shared.ontology import ASPECTS

# In the order in which they sort, which is the order of the output.
CHANNELS = ("IBA", "IEA", "ISM", "ISO", "ISS", "NAS", "ND", "NOT", "other")
NOT = CHANNELS.index("NOT")
OTHER = CHANNELS.index("other")
DROPPED = -1

# https://geneontology.org/docs/guide-go-evidence-codes/ and the two codes it has retired.
EVIDENCE_CODES = frozenset(
    {"EXP", "IDA", "IPI", "IMP", "IGI", "IEP", "HTP", "HDA", "HMP", "HGI", "HEP", "IBA", "IBD", "IKR", "IRD"}
    | {"ISS", "ISO", "ISA", "ISM", "IGC", "RCA", "TAS", "NAS", "IC", "ND", "IEA", "NR", "IMR"}
)
GAF_ASPECTS = {b"F": ASPECTS.index("MF"), b"P": ASPECTS.index("BP"), b"C": ASPECTS.index("CC")}
FLUSH_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class RowRules:
    """What decides whether a row is kept."""

    dropped_codes: frozenset[str]
    frozen_at: datetime.date | None


@dataclass(slots=True)
class RowCounts:
    """What became of the rows of wanted proteins."""

    wanted: int = 0
    dropped_by_code: Counter[str] = field(default_factory=Counter)
    after_frozen_at: int = 0
    unknown_term: int = 0
    obsolete_term: int = 0
    kept_by_code: Counter[str] = field(default_factory=Counter)
    negated: int = 0

    def to_json(self) -> dict[str, int | dict[str, int]]:
        """Plain JSON values."""
        return {
            "wanted": self.wanted,
            "dropped_by_code": dict(sorted(self.dropped_by_code.items())),
            "after_frozen_at": self.after_frozen_at,
            "unknown_term": self.unknown_term,
            "obsolete_term": self.obsolete_term,
            "kept_by_code": dict(sorted(self.kept_by_code.items())),
            "negated": self.negated,
        }


@dataclass(frozen=True, slots=True)
class Annotations:
    """Distinct annotations before propagation. `keys` is sorted; see the module."""

    keys: npt.NDArray[np.int64]
    counts: RowCounts


def collect(rows: Iterable[GafRow], terms: TermTable, rules: RowRules, where: str) -> Annotations:
    """Keep the rows that may become priors.

    Args:
        rows: annotations of wanted proteins.
        terms: the ontology's terms.
        rules: codes and date.
        where: the file's name, for messages.

    Raises:
        DataError: an evidence code that is unknown, a date that is none, or an aspect that the ontology contradicts.
    """
    counts = RowCounts()
    channels = _channel_by_code(rules.dropped_codes)
    last_day = rules.frozen_at.strftime("%Y%m%d").encode() if rules.frozen_at else b"99999999"
    pending, chunks = array("q"), [np.zeros(0, np.int64)]
    kept, dropped = Counter[bytes](), Counter[bytes]()
    width, size = len(CHANNELS), len(terms)
    for row in rows:
        counts.wanted += 1
        channel = channels.get(row.code)
        if channel is None:
            raise _unknown_code(row, where)
        if channel == DROPPED:
            dropped[row.code] += 1
            continue
        if _date(row, where) > last_day:
            counts.after_frozen_at += 1
            continue
        term = _term(row, terms, counts, where)
        if term is None:
            continue
        kept[row.code] += 1
        if row.qualifier and _is_negated(row.qualifier):
            counts.negated += 1
            channel = NOT
        pending.append((row.protein * width + channel) * size + term)
        if len(pending) >= FLUSH_ROWS:
            chunks.append(np.unique(np.frombuffer(pending, np.int64)))
            pending = array("q")
    chunks.append(np.frombuffer(pending, np.int64))
    counts.kept_by_code = Counter({code.decode(): rows for code, rows in kept.items()})
    counts.dropped_by_code = Counter({code.decode(): rows for code, rows in dropped.items()})
    return Annotations(np.unique(np.concatenate(chunks)), counts)


def _channel_by_code(dropped: frozenset[str]) -> Mapping[bytes, int]:
    channels = {code: CHANNELS.index(code) if code in CHANNELS else OTHER for code in EVIDENCE_CODES}
    channels.update(dict.fromkeys(dropped, DROPPED))
    return {code.encode(): channel for code, channel in channels.items()}


def _unknown_code(row: GafRow, where: str) -> DataError:
    # It may be a new experimental one, which would leak labels; so it is not taken for `other`.
    return DataError(
        f"unknown evidence code {row.code.decode('utf-8', 'replace')!r}",
        where=f"{where}:{row.line}",
        remedy="Correct the line, or add the code to goa.dropped_codes",
    )


def _date(row: GafRow, where: str) -> bytes:
    if len(row.date) != 8 or not row.date.isdigit():
        raise DataError(
            f"date {row.date.decode('utf-8', 'replace')!r} is not YYYYMMDD",
            where=f"{where}:{row.line}",
            remedy="Correct the line or get the file again",
        )
    return row.date


def _term(row: GafRow, terms: TermTable, counts: RowCounts, where: str) -> int | None:
    term = terms.find(row.term)
    if term is None:
        if terms.is_obsolete(row.term):
            counts.obsolete_term += 1
        else:
            counts.unknown_term += 1
        return None
    if GAF_ASPECTS.get(row.aspect) != terms.aspects[term]:  # a plain list: faster than an array, one by one
        raise DataError(
            f"{terms.ids[term]} is in {ASPECTS[terms.aspects[term]]}, not in {row.aspect.decode('utf-8', 'replace')!r}",
            where=f"{where}:{row.line}",
            remedy="Give an ontology and annotations of matching releases",
        )
    return term


@lru_cache(maxsize=256)
def _is_negated(qualifier: bytes) -> bool:
    return b"NOT" in qualifier.upper().split(b"|")
