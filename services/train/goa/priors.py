"""Propagate annotations over the graph, take out the benchmark's own labels, write the table.

Positive channels go up (a term implies its ancestors), `NOT` goes down (a term that is not there has
no descendant there either). Rows that imply a label which the benchmark states for the same protein
are left out as a whole, so that every channel stays closed.
"""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.train.goa.annotations import CHANNELS, NOT
from services.train.goa.graph import Closure, IntArray, TermTable, gather

HEADER = "EntryID\tterm\tchannel\tscore\n"
BLOCK_PROTEINS = 2048
COMPRESS_LEVEL = 6  # the default 9 takes three times as long for 2 % fewer bytes


@dataclass(slots=True)
class PriorCounts:
    """What was written."""

    proteins: int = 0
    annotations_implying_a_label: int = 0
    pairs: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, int | dict[str, int]]:
        """Plain JSON values."""
        return {
            "proteins": self.proteins,
            "annotations_implying_a_label": self.annotations_implying_a_label,
            "pairs": dict(sorted(self.pairs.items())),
        }


class Priors:
    """Propagated annotations of any proteins, made block by block.

    Args:
        terms: the ontology's terms.
        annotations: sorted keys, see `services.train.goa.annotations`.
        labels: sorted `protein * terms + term` of the stated labels; empty to take out nothing.
    """

    def __init__(self, terms: TermTable, annotations: IntArray, labels: IntArray) -> None:
        self.terms, self._annotations, self._labels = terms, annotations, labels
        channel, term = _split(annotations % (len(CHANNELS) * len(terms)), len(terms))
        self._up = terms.ancestors(np.concatenate([term[channel != NOT], labels % len(terms)]))
        self._down = terms.descendants(term[channel == NOT])

    def of(self, proteins: IntArray, counts: PriorCounts) -> IntArray:
        """Propagated annotations of `proteins`.

        Returns:
            Sorted `(position in proteins * channels + channel) * terms + term`.
        """
        size = len(self.terms)
        position, keys = _of_proteins(self._annotations, proteins, len(CHANNELS) * size)
        channel, term = _split(keys, size)
        source, implied = self._expand(channel, term)
        spoilt = self._implying_a_label(proteins, position, term, source, implied)
        counts.annotations_implying_a_label += int(spoilt.sum())
        source, implied = source[~spoilt[source]], implied[~spoilt[source]]
        return np.unique((position[source] * len(CHANNELS) + channel[source]) * size + implied)

    def _expand(self, channel: IntArray, term: IntArray) -> tuple[IntArray, IntArray]:
        positive, negated = np.flatnonzero(channel != NOT), np.flatnonzero(channel == NOT)
        up_source, up = self._up.expand(term[positive])
        down_source, down = self._down.expand(term[negated])
        return np.concatenate([positive[up_source], negated[down_source]]), np.concatenate([up, down])

    def _implying_a_label(
        self, proteins: IntArray, position: IntArray, term: IntArray, source: IntArray, implied: IntArray
    ) -> npt.NDArray[np.bool_]:
        """[annotation] True where it states a label, or implies a most specific one."""
        size = len(self.terms)
        owner, label = _of_proteins(self._labels, proteins, size)
        labels = owner * size + label
        specific = most_specific(owner, label, self._up, size)
        spoilt = np.isin(position * size + term, labels)
        spoilt[source[np.isin(position[source] * size + implied, specific)]] = True
        return spoilt


def most_specific(owner: IntArray, label: IntArray, up: Closure, size: int) -> IntArray:
    """Labels that no other label of the same owner implies.

    Label files are often written propagated; there an ancestor, down to the root, states nothing that the
    label below it does not, and taking out everything that implies the root would take out everything.

    Returns:
        Sorted `owner * size + label`.
    """
    source, implied = up.expand(label)
    strict = implied != label[source]
    return np.setdiff1d(owner * size + label, owner[source[strict]] * size + implied[strict])


def write_priors(
    path: Path, ids: Sequence[str], proteins: IntArray, priors: Priors | None, advance: Callable[[int], None]
) -> PriorCounts:
    """Write EntryID, term, channel, score; sorted by protein in the order given, then channel, then term.

    Args:
        path: the gzip file; equal input gives equal bytes.
        ids: accessions in row order.
        proteins: each one's number in the annotations.
        priors: None writes the header only.
        advance: called with the number of proteins that were written.
    """
    counts = PriorCounts()
    with path.open("wb") as raw, gzip.GzipFile("", "wb", COMPRESS_LEVEL, raw, mtime=0) as file:
        file.write(HEADER.encode())
        if priors is None:
            return counts
        for start in range(0, len(ids), BLOCK_PROTEINS):
            names, block = ids[start : start + BLOCK_PROTEINS], proteins[start : start + BLOCK_PROTEINS]
            file.write(_lines(priors.of(block, counts), names, priors.terms.ids, counts))
            advance(len(names))
    return counts


def _lines(keys: IntArray, ids: Sequence[str], terms: Sequence[str], counts: PriorCounts) -> bytes:
    position, rest = np.divmod(keys, len(CHANNELS) * len(terms))
    channel, term = _split(rest, len(terms))
    counts.proteins += len(np.unique(position))
    for index, pairs in enumerate(np.bincount(channel, minlength=len(CHANNELS)).tolist()):
        counts.pairs[CHANNELS[index]] += pairs
    rows = zip(position.tolist(), term.tolist(), channel.tolist(), strict=True)
    return "".join([f"{ids[p]}\t{terms[t]}\t{CHANNELS[c]}\t1.0\n" for p, t, c in rows]).encode()


def _split(keys: IntArray, terms: int) -> tuple[IntArray, IntArray]:
    channel, term = np.divmod(keys, terms)
    return channel, term


def _of_proteins(keys: IntArray, proteins: IntArray, width: int) -> tuple[IntArray, IntArray]:
    """Sorted keys `protein * width + rest` of some proteins, as (position in proteins, rest)."""
    position, found = gather(
        np.searchsorted(keys, proteins * width), np.searchsorted(keys, (proteins + 1) * width), keys
    )
    return position, found % width
