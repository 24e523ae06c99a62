"""Sequences of the demo: homologous families in which real motifs are planted, and decoys that keep it honest.

What a model could cheat with is taken away:

- *homology*: a family's members carry a motif or not by chance, at a position of their own;
- *composition*: each protein holds the constrained residues of every motif, the members' in place,
  the others' scattered, or in place but for one that was swapped away (a broken motif);
- *chance*: no protein matches a motif other than where it was planted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.train.data.motifs import AMINO_ACIDS, MOTIFS, Element, Motif
from shared.errors import GowhyError

# Percent of residues in UniProtKB/Swiss-Prot (release statistics), in the order of AMINO_ACIDS.
SWISS_PROT_PERCENT = (
    8.25, 1.38, 5.46, 6.71, 3.86, 7.07, 2.27, 5.91, 5.80, 9.64, 2.41, 4.06, 4.74, 3.93, 5.52, 6.65, 5.36, 6.86, 1.10, 2.92,
)  # fmt: skip
FrequencyArray = npt.NDArray[np.float64]
BACKGROUND: FrequencyArray = np.asarray(SWISS_PROT_PERCENT) / sum(SWISS_PROT_PERCENT)
IDENTITY = (0.4, 0.8)  # of a member with its family's ancestor
SHORTEST, LONGEST = 96, 340  # residues of an ancestor; most are short
MAX_TRIMMED = 8  # residues that a member may lack at either end
MEAN_LENGTH = 165
SIGNAL_LENGTH = 20  # residues kept free of motifs where a signal peptide stands
LIKENESS = 0.5  # of a planted residue with the motif's known site
GAP_DECAY = 0.4  # each further residue in a gap: most C2H2 fingers are C-x(2)-C ... H-x(3)-H
SECRETED_MEMBERS = 0.6  # of a secreted family
SWAPS, TRIES = 200, 50  # a match made of several motifs' residues can only be undone by starting again


@dataclass(frozen=True, slots=True)
class Odds:
    """How a member's state in each motif is drawn; what is left over is scattered."""

    eligible_family: float = 0.6
    planted: float = 0.6  # in an eligible family
    broken: float = 0.25  # in any family, of those without the motif


@dataclass(frozen=True, slots=True)
class Family:
    """An ancestor, and which motifs some of its members carry."""

    ancestor: str
    motifs: frozenset[str]  # PROSITE accessions
    secreted: bool  # some members have a signal peptide


@dataclass(frozen=True, slots=True)
class DemoProtein:
    """One generated protein; `sites[term]` are the 0-based constrained positions of the planted motif."""

    family: int
    sequence: str
    signal: bool
    sites: dict[str, tuple[int, ...]]


def host_background() -> FrequencyArray:
    """Residue frequencies of the ancestors, so that they and the motifs' residues together are natural."""
    counts = BACKGROUND * MEAN_LENGTH
    for motif in MOTIFS:
        for element, typical in zip(_constrained(motif), motif.typical, strict=True):
            counts = counts - _chances(element, typical)
    floor = 0.15 * BACKGROUND * MEAN_LENGTH
    hosts = np.maximum(counts, floor)
    frequencies: FrequencyArray = hosts / hosts.sum()
    return frequencies


def make_families(count: int, odds: Odds, rng: np.random.Generator) -> list[Family]:
    """Ancestors; every fifth family carries no motif, the others some of them."""
    frequencies = host_background()
    carrying = [index for index in range(count) if index % 5 != 4]
    share = round(odds.eligible_family * count)
    eligible = {motif.accession: set(rng.permutation(carrying)[:share].tolist()) for motif in MOTIFS}
    families = []
    for index in range(count):
        motifs = frozenset(accession for accession, chosen in eligible.items() if index in chosen)
        length = SHORTEST + round((LONGEST - SHORTEST) * rng.beta(1.2, 3.0))
        ancestor = "".join(rng.choice(list(AMINO_ACIDS), size=length, p=frequencies))
        families.append(Family(ancestor, motifs, index % 4 == 1))
    return families


def make_member(index: int, family: Family, odds: Odds, rng: np.random.Generator) -> DemoProtein:
    """A mutated copy of the ancestor, with the family's motifs planted or not.

    Raises:
        GowhyError: no sequence without chance matches was found.
    """
    for _ in range(TRIES):
        residues = mutate(family.ancestor, rng)
        residues[0] = "M"
        signal = family.secreted and rng.random() < SECRETED_MEMBERS
        if signal:
            residues[:0] = signal_peptide(rng)
        planting = Planting(residues, SIGNAL_LENGTH if signal else 1, rng)
        _plant_all(planting, family, odds, rng)
        if planting.remove_chance_matches():
            return DemoProtein(index, "".join(planting.residues), signal, dict(planting.sites))
    raise GowhyError("chance matches of a motif could not be removed", where=f"demo family {index}")


def _plant_all(planting: Planting, family: Family, odds: Odds, rng: np.random.Generator) -> None:
    scattered = []
    for motif in MOTIFS:
        carries = motif.accession in family.motifs and rng.random() < odds.planted
        if carries or rng.random() < odds.broken:
            planting.place(motif, broken=not carries)
        else:
            scattered.append(motif)
    for motif in scattered:  # after every span is placed, so that none is overwritten
        planting.scatter(motif)


def mutate(ancestor: str, rng: np.random.Generator) -> list[str]:
    """Trim the ends and substitute down to a random identity with the ancestor."""
    first, last = (int(count) for count in rng.integers(0, MAX_TRIMMED + 1, size=2))
    kept = np.asarray(list(ancestor[first : len(ancestor) - last]))
    identity = rng.uniform(*IDENTITY)
    changed = rng.random(len(kept)) > identity
    kept[changed] = rng.choice(list(AMINO_ACIDS), size=int(changed.sum()), p=host_background())
    return [str(residue) for residue in kept]


def signal_peptide(rng: np.random.Generator) -> list[str]:
    """Methionine, positive charges, a hydrophobic core and small residues at -3 and -1 of the cleavage site.

    Source: von Heijne 1986, Nucleic Acids Res 14:4683 (the (-3, -1) rule).
    """
    core = rng.choice(list("LLLLAAVVIF"), size=int(rng.integers(9, 13)))
    polar = rng.choice(list("QSHN"))
    return ["M", *rng.choice(list("KR"), size=2), *core, "A", str(polar), "A"]


class Planting:
    """A protein while motifs are put in; residues only ever move after they were placed, so composition stays.

    Args:
        residues: changed in place.
        start: residues before it are left alone.
        rng: source of every choice.
    """

    def __init__(self, residues: list[str], start: int, rng: np.random.Generator) -> None:
        self.residues, self.start, self.rng = residues, start, rng
        self.sites: dict[str, tuple[int, ...]] = {}
        self.taken = np.zeros(len(residues), bool)  # a motif's residue stands here
        self.taken[:start] = True
        self.spans = np.zeros(len(residues), bool)  # between the first and last residue of a placed motif
        self.spans[:start] = True

    def place(self, motif: Motif, *, broken: bool) -> None:
        """Put the motif's residues in place at a random free span; a broken one lacks one of them."""
        elements = self._variant(motif)
        span = len(elements)
        blocked = np.convolve(self.spans, np.ones(span), "valid")
        start = int(self.rng.choice(np.flatnonzero(blocked == 0)))
        self.spans[start : start + span] = True
        positions = [start + offset for offset, element in enumerate(elements) if element.constrained]
        for position, residue in zip(positions, self._residues(motif), strict=True):
            self.residues[position] = residue
        for position, element in enumerate(elements, start):
            if not element.allows(self.residues[position]):
                self.residues[position] = self._draw(_chances(element))
        self.taken[positions] = True
        if not broken:
            self.sites[motif.term] = tuple(positions)
            return
        lost = int(self.rng.choice(positions))
        element = elements[lost - start]
        outside = [q for q in np.flatnonzero(~self.taken & ~self.spans) if not element.allows(self.residues[q])]
        self._swap(lost, int(self.rng.choice(outside)))

    def scatter(self, motif: Motif) -> None:
        """Put the motif's residues anywhere, apart from each other's order and distances."""
        residues = self._residues(motif)
        places = self.rng.choice(np.flatnonzero(~self.taken & ~self.spans), size=len(residues), replace=False)
        for position, residue in zip(places.tolist(), residues, strict=True):
            self.residues[position] = residue
            self.taken[position] = True

    def remove_chance_matches(self) -> bool:
        """Swap residues until nothing matches but what was planted; False where that does not end."""
        for _ in range(SWAPS):
            unwanted = self._unwanted()
            if unwanted is None:
                return True
            here = int(self.rng.choice(unwanted))
            there = int(self.rng.choice(np.flatnonzero(~self.spans)))
            self._swap(here, there)
            if not self._planted_hold():
                self._swap(here, there)
        return False

    def _unwanted(self) -> list[int] | None:
        """Movable positions of the first match that was not planted; None where there is none."""
        kept = {position for positions in self.sites.values() for position in positions}
        sequence = "".join(self.residues)
        for motif in MOTIFS:
            for match in motif.pattern.occurrences(sequence):
                if match.constrained != self.sites.get(motif.term):
                    return [p for p in match.constrained if p not in kept and p >= self.start] or list(
                        match.constrained
                    )
        return None

    def _planted_hold(self) -> bool:
        sequence = "".join(self.residues)
        return all(
            motif.term not in self.sites
            or any(match.constrained == self.sites[motif.term] for match in motif.pattern.occurrences(sequence))
            for motif in MOTIFS
        )

    def _swap(self, one: int, other: int) -> None:
        self.residues[one], self.residues[other] = self.residues[other], self.residues[one]

    def _variant(self, motif: Motif) -> tuple[Element, ...]:
        variants = motif.pattern.variants
        shortest = min(len(variant) for variant in variants)
        chances = np.asarray([GAP_DECAY ** (len(variant) - shortest) for variant in variants])
        return variants[int(self.rng.choice(len(variants), p=chances / chances.sum()))]

    def _residues(self, motif: Motif) -> list[str]:
        """The motif's constrained residues, drawn anew for each protein."""
        return [
            self._draw(_chances(element, typical))
            for element, typical in zip(_constrained(motif), motif.typical, strict=True)
        ]

    def _draw(self, chances: FrequencyArray) -> str:
        return str(self.rng.choice(list(AMINO_ACIDS), p=chances))


def _constrained(motif: Motif) -> list[Element]:
    """The motif's constrained elements, which all its variants have in the same order."""
    return [element for element in motif.pattern.variants[0] if element.constrained]


def _chances(element: Element, typical: str = "") -> FrequencyArray:
    """How likely each residue is where an element stands, in the order of AMINO_ACIDS.

    The known site's residue has `LIKENESS`; the rest follows the background within what is allowed.
    """
    allowed = np.asarray([element.allows(residue) for residue in AMINO_ACIDS])
    chances: FrequencyArray = np.where(allowed, BACKGROUND, 0.0)
    chances = chances / chances.sum()
    if typical:
        chances *= 1.0 - LIKENESS
        chances[AMINO_ACIDS.index(typical)] += LIKENESS
    return chances
