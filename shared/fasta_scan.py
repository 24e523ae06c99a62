"""The compiled scan of FASTA records of the usual kind: where their ids are, their taxa, and their residues.

It knows a part of what shared.fasta knows, and says so where it does not: a record that it cannot read is left to
`shared.fasta.parse_header`, and a sequence that it cannot read to the reader of lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shared.compiled import compiled

Array = npt.NDArray[Any]
NEWLINE, SPACE, STOP, MARK, PIPE = 10, 32, 42, 62, 124
ZERO, NINE = 48, 57
SLASH, BACKSLASH, UNDERSCORE = 47, 92, 95
CASE, FIRST, LAST = (
    np.uint8(0xDF),
    np.uint8(65),
    np.uint8(25),
)  # the bit that tells a letter's case; A; Z as seen from A
NO_TAXON, UNUSUAL = -1, -2
LONGEST_ID = 100
DIGITS = 18  # of a number that surely fits into 64 bits
# What `Scan` has in its columns.
HEADER, HEADER_END, NAME, NAME_END, TAXON, RESIDUES, RESIDUES_END, LINES = range(8)


@compiled
def number(data: Array, start: int, end: int) -> int:
    """The digits up to a space or the end; NO_TAXON where there is something else, UNUSUAL where there are many."""
    value, at = 0, start
    while at < end and ZERO <= data[at] <= NINE:
        value = 10 * value + data[at] - ZERO
        at += 1
        if at - start > DIGITS:
            return UNUSUAL
    return value if at > start and (at == end or data[at] == SPACE) else NO_TAXON


@compiled
def usual(data: Array, start: int, end: int) -> bool:
    """Is the printable [start, end) an id as `shared.fasta` takes it?"""
    if start == end or end - start > LONGEST_ID:
        return False
    for at in range(start, end):
        letter = data[at]
        if letter in (SLASH, BACKSLASH):
            return False
    first = data[start]
    return bool(ZERO <= first <= NINE or first == UNDERSCORE or np.uint8((first & CASE) - FIRST) <= LAST)


@compiled
def header(data: Array, start: int, end: int, row: Array) -> None:  # noqa: C901, PLR0912 - one pass per header
    """Id and taxon of the header in [start, end); `row[TAXON]` is UNUSUAL for other ids and anything but printable ASCII."""
    row[TAXON] = UNUSUAL
    for at in range(start, end):
        if not SPACE <= data[at] < 127:
            return
    while start < end and data[start] == SPACE:
        start += 1
    while end > start and data[end - 1] == SPACE:
        end -= 1
    word = start
    while word < end and data[word] != SPACE:
        word += 1
    row[NAME], row[NAME_END] = start, word
    # sp|ACC|NAME and tr|ACC|NAME are ACC.
    swiss = word - start > 3 and data[start + 2] == PIPE and data[start + 1] == 112 and data[start] == 115
    trembl = word - start > 3 and data[start + 2] == PIPE and data[start + 1] == 114 and data[start] == 116
    if swiss or trembl:
        stop = start + 3
        while stop < word and data[stop] != PIPE:
            stop += 1
        if stop > start + 3:
            row[NAME], row[NAME_END] = start + 3, stop
    if not usual(data, row[NAME], row[NAME_END]):
        return
    for at in range(start, end - 3):
        key = data[at] == 79 and data[at + 1] == 88 and data[at + 2] == 61  # OX=
        if key and (at == start or data[at - 1] == SPACE):
            row[TAXON] = number(data, at + 3, end)
            if row[TAXON] != NO_TAXON:
                return
    # One word more, and that a number, is a taxon too.
    while word < end and data[word] == SPACE:
        word += 1
    row[TAXON] = number(data, word, end)
    if row[TAXON] >= 0:
        while word < end and data[word] != SPACE:
            word += 1
        if word < end:
            row[TAXON] = NO_TAXON


@compiled
def capitals(data: Array, start: int, end: int, into: Array, place: int) -> bool:
    """Copy [start, end) as capitals to `into[place:]`; False if not all were letters, and what was written is void."""
    strange = 0
    for at in range(end - start):  # no branch inside, so that it becomes vector instructions
        letter = np.uint8(data[start + at] & CASE)
        into[place + at] = letter
        strange |= int(np.uint8(letter - FIRST) > LAST)
    return strange == 0


@compiled
def scan(data: Array, upper: Array, rows: Array, residues: Array) -> int:
    """Read records that fill `data`, the first at its start; how many, or -1 if a sequence is unusual or empty.

    Args:
        data: uint8 [n], lines ending with a newline each but perhaps the last.
        upper: uint8 [256], the capital of each letter, and 0 for other bytes.
        rows: int64 [records, 8], filled: places in `data` of header and id, taxon, places in `residues`, lines.
        residues: uint8 [n], filled with the capitals of all sequences.
    """
    size, at, filled, count, width = len(data), 0, 0, 0, 0
    while at < size:
        row = rows[count]
        end = at
        while end < size and data[end] != NEWLINE:
            end += 1
        row[HEADER], row[HEADER_END], row[RESIDUES] = at + 1, end, filled
        header(data, at + 1, end, row)
        lines, stopped = 1, False
        at = end + 1
        while at < size and data[at] != MARK:
            # A line is mostly as long as the one before: letters up to a newline there are all of it, found many at once.
            end = at + width
            letters = end < size and data[end] == NEWLINE and capitals(data, at, end, residues, filled)
            if not letters:
                end = at
                while end < size and data[end] != NEWLINE:
                    end += 1
                letters = capitals(data, at, end, residues, filled)
                if lines == 1:  # the last line of a protein is shorter, and says nothing of the next one
                    width = end - at
            if letters and not stopped:
                filled += end - at
            else:
                while at < end and not stopped and upper[data[at]] != 0:
                    residues[filled] = upper[data[at]]
                    filled += 1
                    at += 1
                if at < end:
                    # A stop may end the sequence, and only empty lines come after it.
                    if stopped or data[at] != STOP or at + 1 < end:
                        return -1
                    stopped = True
            lines += end < size
            at = end + 1
        if filled == row[RESIDUES]:
            return -1
        row[RESIDUES_END], row[LINES] = filled, lines
        count += 1
    return count
