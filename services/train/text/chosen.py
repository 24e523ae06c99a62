"""One text per protein, chosen among all that a source offers; texts are on disk, only offsets in memory."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from services.train.text.record import TextRecord, compose

NO_DATE = datetime.date.min


@dataclass(slots=True)
class TextCounts:
    """What became of the records that concern a wanted protein."""

    records: int = 0
    changed_after_frozen_at: int = 0
    undated: int = 0  # kept: whoever gives a table answers for its date
    empty_after_rule: int = 0
    by_secondary_accession: int = 0  # proteins

    def to_json(self) -> dict[str, int]:
        """Plain JSON values."""
        return asdict(self)


class ChosenTexts:
    """For each wanted protein the best record's text. Use it as a context manager.

    Of the records that are not newer than `frozen_at`, one whose primary accession is the protein's is better
    than one that has it as a secondary accession; then the newest is the best; then the first.

    Args:
        path: scratch file; overwritten.
        wanted: accessions.
        frozen_at: records that changed after this day are left out.
        drop: see `services.train.text.record.compose`.
    """

    def __init__(
        self, path: Path, wanted: Mapping[str, object], frozen_at: datetime.date | None, drop: Iterable[str]
    ) -> None:
        self.counts = TextCounts()
        self._wanted, self._frozen_at, self._drop = wanted, frozen_at, tuple(drop)
        self._file = path.open("w+b")
        self._end = 0
        self._places: dict[str, tuple[tuple[bool, datetime.date], int, int]] = {}  # rank, offset, length

    def add(self, records: Iterable[TextRecord]) -> None:
        """Consider every record."""
        for record in records:
            self.counts.records += 1
            if record.changed is None:
                self.counts.undated += 1
            elif self._frozen_at is not None and record.changed > self._frozen_at:
                self.counts.changed_after_frozen_at += 1
                continue
            text = compose(record, self._drop).encode()
            if not text:
                self.counts.empty_after_rule += 1
                continue
            self._offer(record, text)

    def _offer(self, record: TextRecord, text: bytes) -> None:
        improved = False
        for number, accession in enumerate(record.accessions):
            rank = (number == 0, record.changed or NO_DATE)
            place = self._places.get(accession)
            if accession in self._wanted and (place is None or rank > place[0]):
                self._places[accession] = (rank, self._end, len(text))
                improved = True
        if improved:
            self._file.seek(self._end)
            self._file.write(text)
            self._end += len(text)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Accession and text of every wanted protein that has one, in the order of `wanted`."""
        for accession in self._wanted:
            if (place := self._places.get(accession)) is not None:
                (primary, _changed), offset, length = place
                self.counts.by_secondary_accession += not primary
                self._file.seek(offset)
                yield accession, self._file.read(length).decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
