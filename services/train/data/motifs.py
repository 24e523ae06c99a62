"""Published sequence motifs: a compiler for PROSITE patterns, and the motifs that the demo plants.

A pattern is compiled to its fixed-length variants (one for each choice of gap lengths), so that every
way in which a sequence can match is found, overlapping ones included. The positions that carry the
signal are the *constrained* ones: a residue or a bracketed class; neither `x` nor an exclusion `{..}`.

Sources: PROSITE user manual (pattern syntax); Sigrist et al. 2013, doi:10.1093/nar/gks1067 (entries).
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cached_property

from shared.errors import DataError

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
MAX_VARIANTS = 10_000

_ELEMENT = re.compile(
    r"^(?:(?P<any>x)|(?P<one>[A-Z])|\[(?P<either>[A-Z]+)\]|\{(?P<neither>[A-Z]+)\})(?:\((?P<low>\d+)(?:,(?P<high>\d+))?\))?$"
)


@dataclass(frozen=True, slots=True)
class Element:
    """One part of a pattern, repeated between `low` and `high` times."""

    residues: str  # the allowed residues of "either", the excluded ones of "neither"
    kind: str  # "any" (x), "either" (a residue or [..]) or "neither" ({..})
    low: int = 1
    high: int = 1

    @property
    def constrained(self) -> bool:
        """Whether its positions carry the motif."""
        return self.kind == "either"

    def allows(self, residue: str) -> bool:
        """Whether a residue may stand here."""
        return self.kind == "any" or (residue in self.residues) is (self.kind == "either")

    @property
    def regex(self) -> str:
        """The element as a regular expression, with its repeats."""
        one = self.residues if len(self.residues) == 1 else f"[{self.residues}]"
        single = {"any": ".", "either": one, "neither": f"[^{self.residues}]"}[self.kind]
        if self.low == self.high:
            return single if self.low == 1 else f"{single}{{{self.low}}}"
        return f"{single}{{{self.low},{self.high}}}"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One match: residues `start` to `end` (0-based, end excluded) and the constrained positions among them."""

    start: int
    end: int
    constrained: tuple[int, ...]


@dataclass(frozen=True)
class Pattern:
    """A compiled PROSITE pattern; see `compile_pattern`."""

    text: str
    elements: tuple[Element, ...]
    at_start: bool
    at_end: bool

    @property
    def regex(self) -> str:
        """One regular expression that matches what the pattern matches."""
        body = "".join(element.regex for element in self.elements)
        return f"{'^' if self.at_start else ''}{body}{'$' if self.at_end else ''}"

    @cached_property
    def variants(self) -> tuple[tuple[Element, ...], ...]:
        """The pattern with every choice of repeats written out: one single-residue element per position."""
        choices = [
            [(Element(e.residues, e.kind),) * count for count in range(e.low, e.high + 1)] for e in self.elements
        ]
        return tuple(tuple(itertools.chain.from_iterable(choice)) for choice in itertools.product(*choices))

    @cached_property
    def _scanners(self) -> tuple[tuple[re.Pattern[str], int, tuple[int, ...]], ...]:
        scanners = []
        for variant in self.variants:
            body = "".join(element.regex for element in variant)
            # A lookahead consumes nothing, so overlapping matches are all found.
            expression = re.compile(f"{'^' if self.at_start else ''}(?={body}{'$' if self.at_end else ''})")
            offsets = tuple(offset for offset, element in enumerate(variant) if element.constrained)
            scanners.append((expression, len(variant), offsets))
        return tuple(scanners)

    def occurrences(self, sequence: str) -> tuple[Occurrence, ...]:
        """Every way in which the sequence matches, sorted by position."""
        found = {
            Occurrence(match.start(), match.start() + length, tuple(match.start() + offset for offset in offsets))
            for expression, length, offsets in self._scanners
            for match in expression.finditer(sequence)
        }
        return tuple(sorted(found, key=lambda item: (item.start, item.end, item.constrained)))


def compile_pattern(text: str) -> Pattern:
    """Compile a PROSITE pattern such as `[AG]-x(4)-G-K-[ST]`; a final full stop may stand.

    Raises:
        DataError: the text is no pattern (named with its element), or it has too many variants.

    Source: PROSITE user manual, PA line. Terminal anchors inside brackets (`[G>]`) are not accepted.
    """
    body = text.strip().removesuffix(".")
    at_start, at_end = body.startswith("<"), body.endswith(">")
    parts = body.removeprefix("<").removesuffix(">").split("-")
    elements = tuple(_element(part, text) for part in parts)
    count = 1
    for element in elements:
        count *= element.high - element.low + 1
    if count > MAX_VARIANTS:
        raise DataError(f"{count} choices of gap lengths", where=text, remedy=f"At most {MAX_VARIANTS} are compiled")
    return Pattern(text, elements, at_start, at_end)


def _element(part: str, text: str) -> Element:
    match = _ELEMENT.match(part)
    if match is None:
        raise DataError(
            f"not a pattern element: {part!r}",
            where=text,
            remedy="Elements are x, A, [AB] or {AB}, each with (n) or (n,m)",
        )
    low = int(match["low"] or 1)
    high = int(match["high"] or low)
    if high < low:
        raise DataError(f"repeats run backwards: {part!r}", where=text, remedy="Write (n,m) with n <= m")
    if match["any"]:
        return Element("", "any", low, high)
    if match["neither"]:
        return Element(match["neither"], "neither", low, high)
    return Element(match["one"] or match["either"], "either", low, high)


@dataclass(frozen=True)
class Motif:
    """A PROSITE entry, the GO term that its site stands for, and a known site."""

    accession: str
    name: str
    pattern: Pattern
    term: str
    site: str  # the residues of a real match
    source: str  # whose they are

    @cached_property
    def typical(self) -> str:
        """The constrained residues of the known site, in order."""
        (match,) = self.pattern.occurrences(self.site)
        return "".join(self.site[position] for position in match.constrained)


MOTIFS: tuple[Motif, ...] = (
    Motif(
        "PS00017",
        "P-loop (ATP/GTP-binding site motif A)",
        compile_pattern("[AG]-x(4)-G-K-[ST]."),
        "GO:0005524",
        "GAGGVGKS",
        "RASH_HUMAN 10-17",
    ),
    Motif(
        "PS00028",
        "C2H2 zinc finger",
        compile_pattern("C-x(2,4)-C-x(3)-[LIVMFYWC]-x(8)-H-x(3,5)-H."),
        "GO:0008270",
        "CRICMRNFSRSDHLTTHIRTH",
        "EGR1_HUMAN, second finger",
    ),
    Motif(
        "PS00018",
        "EF-hand",
        compile_pattern("D-{W}-[DNS]-{ILVFYW}-[DENSTG]-[DNQGHRK]-{GP}-[LIVMC]-[DENQSTAGC]-x(2)-[DE]-[LIVMFYW]."),
        "GO:0005509",
        "DKDGDGTITTKEL",
        "CALM1_HUMAN, first loop",
    ),
    Motif(
        "PS00134",
        "Trypsin family histidine active site",
        compile_pattern("[LIVM]-[ST]-A-[STAG]-H-C."),
        "GO:0004252",
        "VTAAHC",
        "CTRA_BOVIN 53-58",
    ),
    Motif(
        "PS00039",
        "DEAD-box helicase",
        compile_pattern("[LIVMF](2)-D-E-A-D-[RKEN]-x-[LIVMFYGSTN]."),
        "GO:0003724",
        "VLDEADEML",
        "IF4A1_HUMAN, motif II",
    ),
)
"""Motifs whose sites the demo plants; the terms are those of PROSITE's documentation of each entry."""
