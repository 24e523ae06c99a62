"""The ontology's terms in alphabetical order, and what each implies upwards and downwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.ontology import Ontology

IntArray = npt.NDArray[np.int64]


class TermTable:
    """Terms numbered alphabetically, so that sorting numbers sorts ids.

    Attributes:
        ids: GO ids in alphabetical order.
        aspects: [term] index into ASPECTS.
    """

    def __init__(self, ontology: Ontology) -> None:
        order = sorted(range(len(ontology.terms)), key=ontology.terms.__getitem__)
        self.ids = tuple(ontology.terms[index] for index in order)
        self.aspects: list[int] = np.asarray(ontology.aspects)[order].tolist()
        self._ontology = ontology
        self._order = order
        self._number = np.empty(len(order), np.int64)
        self._number[order] = np.arange(len(order))
        self._found: dict[bytes, int | None] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, term: bytes) -> int | None:
        """Number of a term by any of its ids; None for unknown and obsolete ones."""
        try:
            return self._found[term]
        except KeyError:
            canonical = self._ontology.resolve(term.decode("ascii", "replace"))
            number = None if canonical is None else int(self._number[self._ontology.index[canonical]])
            self._found[term] = number
            return number

    def is_obsolete(self, term: bytes) -> bool:
        """True for ids that the ontology lists as obsolete."""
        return term.decode("ascii", "replace") in self._ontology.obsolete

    def ancestors(self, wanted: IntArray) -> Closure:
        """What each wanted term implies: itself and everything above it within its aspect."""
        return Closure.of(
            len(self), {int(t): self._number[self._ontology.ancestors(self._order[t])] for t in np.unique(wanted)}
        )

    def descendants(self, wanted: IntArray) -> Closure:
        """What the negation of each wanted term negates: itself and everything below it."""
        children: list[list[int]] = [[] for _ in self.ids]
        for child, parents in enumerate(self._ontology.parents):
            for parent in parents:
                children[self._number[parent]].append(int(self._number[child]))
        return Closure.of(len(self), {int(t): _reachable(children, int(t)) for t in np.unique(wanted)})


def _reachable(edges: Sequence[Sequence[int]], start: int) -> IntArray:
    seen, open_ = {start}, [start]
    while open_:
        new = [node for node in edges[open_.pop()] if node not in seen]
        seen.update(new)
        open_.extend(new)
    return np.array(sorted(seen), np.int64)


@dataclass(frozen=True, slots=True)
class Closure:
    """Terms implied by a term as a compressed list of lists; terms that were not asked for have none."""

    indptr: IntArray  # [terms + 1]
    indices: IntArray

    @classmethod
    def of(cls, terms: int, lists: dict[int, IntArray]) -> Closure:
        """From the lists of some of `terms` terms."""
        sizes = np.zeros(terms + 1, np.int64)
        for term, implied in lists.items():
            sizes[term + 1] = len(implied)
        parts: Iterable[IntArray] = (lists[term] for term in sorted(lists))
        return cls(np.cumsum(sizes), np.concatenate([np.zeros(0, np.int64), *parts]))

    def expand(self, terms: IntArray) -> tuple[IntArray, IntArray]:
        """Everything implied by each of `terms`.

        Returns:
            Position in `terms`, and implied term; equally long.
        """
        return gather(self.indptr[terms], self.indptr[terms + 1], self.indices)


def gather(starts: IntArray, ends: IntArray, values: IntArray) -> tuple[IntArray, IntArray]:
    """Concatenate `values[start:end]` of all ranges, with the number of the range each came from."""
    sizes = ends - starts
    source = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(len(source)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return source, values[starts[source] + within]
