"""What an exporter is given, and what it owes.

Positions in a `Track` are 1-based indices into the protein's sequence, as in UniProt; each exporter turns them into
the coordinates that its format's specification asks for, and cites it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.xai_worker.naming import identifier
from services.xai_worker.result import AnyExplanation, ResidueExplanation, ranks
from services.xai_worker.structure import Structure


@dataclass(frozen=True, slots=True)
class Track:
    """One value per residue: a (term, model, method) of one protein."""

    explanation: ResidueExplanation

    @property
    def key(self) -> tuple[str, str, str]:
        """Term, model and method; with the protein, the key of the attribution table."""
        return self.explanation.term, self.explanation.model, self.explanation.method

    @property
    def label(self) -> str:
        """The key as text."""
        return " ".join(self.key)

    @property
    def attribute(self) -> str:
        """The key as an identifier, such as gowhy_GO_0005524_cnn_occlusion."""
        return identifier(*self.key)

    @property
    def limit(self) -> float:
        """The largest absolute value: where the colour scale ends."""
        return max((abs(value) for _, _, value in self.values()), default=0.0)

    def values(self) -> Iterator[tuple[int, str, float]]:
        """Position (1-based), residue and value of every residue that the model sees."""
        explanation = self.explanation
        for position, (residue, value) in enumerate(
            zip(explanation.sequence, explanation.values, strict=True), start=1
        ):
            if value is not None:
                yield position, residue, value

    def ranks(self) -> list[int | None]:
        """Rank of each residue, 1 raises the score most."""
        return ranks(self.explanation.values)


@dataclass(frozen=True, slots=True)
class MutationTable:
    """What each substitution does to the logit: a row is (position from 1, residue, substitution, value)."""

    protein: str
    term: str
    model: str
    method: str
    rows: Sequence[tuple[int, str, str, float]]


@dataclass(frozen=True, slots=True)
class Explained:
    """Everything about one protein. `name` is safe as a file name; `structure` is None where no file was given."""

    protein: str
    name: str
    sequence: str
    explanations: Sequence[AnyExplanation]
    mutations: Sequence[MutationTable] = ()
    structure: Structure | None = None

    @property
    def tracks(self) -> list[Track]:
        """The residue explanations, in the order of the attribution table."""
        return [Track(item) for item in self.explanations if isinstance(item, ResidueExplanation)]


class Exporter(Protocol):
    """Writes one protein in one format."""

    name: str  # its folder under exports/, and what --export takes
    what: str  # one line for people

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """File name below the exporter's folder, and content; nothing where the format has nothing to hold."""
        ...


def number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return repr(float(value))
