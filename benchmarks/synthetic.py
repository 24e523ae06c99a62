"""Generated inputs of any size: a GO-shaped graph, families of proteins, labels, texts. Equal arguments, equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESIDUES = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)
ROOTS = {"molecular_function": 3674, "biological_process": 8150, "cellular_component": 5575}
DEEPEST, USUAL_DEPTH, DEPTH_SPREAD = 15, 6.5, 2.2  # close to GO's own
MORE_PARENTS = 0.9  # beside the first, on average
WORDS, WORDS_PER_TEXT = 20_000, 40
FAMILY, SHORTEST, LONGEST, MEDIAN, SIGMA = 10, 40, 1000, 250, 0.5
KINDS = 40
KEPT = 0.6  # of a family's residues, in each member


@dataclass(frozen=True, slots=True)
class Dag:
    """Terms in topological order: `parents` of each, all with smaller numbers, and each term's namespace."""

    ids: Sequence[str]
    namespaces: Sequence[str]
    parents: Sequence[Sequence[int]]


def make_dag(terms: int, seed: int = 0, namespaces: Sequence[str] = tuple(ROOTS)) -> Dag:
    """About 1.9 parents per term and 41 ancestors at 5000 terms; each namespace is a graph of its own."""
    rng = np.random.default_rng(seed)
    ids: list[str] = []
    names: list[str] = []
    parents: list[list[int]] = []
    for number, namespace in enumerate(namespaces):
        first, size = len(ids), terms // len(namespaces)
        level = np.clip(np.round(rng.normal(USUAL_DEPTH, DEPTH_SPREAD, size)), 1, DEEPEST).astype(int)
        level[0] = 0
        level.sort()
        above = np.searchsorted(level, level)  # terms of smaller levels
        start = np.searchsorted(level, level[np.maximum(above - 1, 0)])
        for term in range(size):
            chosen: set[int] = set()
            if term:
                chosen = {int(rng.integers(start[term], above[term]))}
                chosen |= {int(rng.integers(0, above[term])) for _ in range(rng.poisson(MORE_PARENTS))}
            parents.append(sorted(first + parent for parent in chosen))
            ids.append(f"GO:{ROOTS[namespace] if term == 0 else 1_000_000 * (number + 1) + term:07d}")
            names.append(namespace)
    return Dag(ids, names, parents)


def write_obo(path: Path, dag: Dag, part_of: float = 0.1, seed: int = 0) -> None:
    """The graph as an OBO file; a term's first parent is is_a, of the others some are part_of."""
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf-8") as file:
        file.write("format-version: 1.2\ndata-version: synthetic\n")
        for term, name, parents in zip(dag.ids, dag.namespaces, dag.parents, strict=True):
            file.write(f"\n[Term]\nid: {term}\nname: term {term}\nnamespace: {name}\n")
            for place, parent in enumerate(parents):
                partial = place > 0 and rng.random() < part_of
                file.write(f"{'relationship: part_of' if partial else 'is_a:'} {dag.ids[parent]} ! parent\n")


def protein_ids(count: int, prefix: str = "P") -> list[str]:
    """`P0000001` and so on; proteins of one family stand together, see `family_of`."""
    return [f"{prefix}{row:07d}" for row in range(count)]


def family_of(count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Family of each protein, in order; about FAMILY members each."""
    return np.arange(count, dtype=np.int64) // FAMILY


def sequences(count: int, seed: int = 0) -> list[str]:
    """Families that share KEPT of their residues; log-normal lengths."""
    rng = np.random.default_rng(seed)
    made: list[str] = []
    while len(made) < count:
        length = int(np.clip(np.exp(rng.normal(np.log(MEDIAN), SIGMA)), SHORTEST, LONGEST))
        centre = rng.choice(RESIDUES, length)
        for _ in range(min(FAMILY, count - len(made))):
            other = rng.choice(RESIDUES, length)
            made.append(np.where(rng.random(length) < KEPT, centre, other).tobytes().decode("ascii"))
    return made


def kind_of(families: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Kind of each family: what families have in common that no homology shows."""
    return families % KINDS


def labels(count: int, dag: Dag, seed: int = 0, each: float = 5.0) -> list[list[int]]:
    """Stated terms of each protein: mostly those of its family's kind, one of its own; common terms are commoner."""
    rng = np.random.default_rng(seed)
    weight = 1.0 / np.arange(20, len(dag.ids) + 20)
    order = rng.permutation(len(dag.ids))
    chance = np.empty(len(dag.ids))
    chance[order] = weight / weight.sum()
    of_kind = rng.choice(len(dag.ids), (KINDS, int(each) + 1), p=chance)
    own = rng.choice(len(dag.ids), count, p=chance)
    kinds = kind_of(family_of(count))
    return [
        sorted({*of_kind[kind][rng.random(of_kind.shape[1]) < 0.7].tolist(), int(own[row])})
        for row, kind in enumerate(kinds)
    ]


def texts(count: int, seed: int = 0) -> list[str]:
    """Words with Zipf's frequencies."""
    rng = np.random.default_rng(seed)
    words = np.array([f"word{number}x" for number in range(WORDS)])
    drawn = np.minimum(rng.zipf(1.3, (count, WORDS_PER_TEXT)) - 1, WORDS - 1)
    return [" ".join(row) for row in words[drawn]]


def write_fasta(path: Path, ids: Sequence[str], residues: Sequence[str], seed: int = 0) -> None:
    """Records with a taxon; 60 residues a line."""
    taxa = np.random.default_rng(seed).choice([9606, 10090, 559292, 83333, 3702], len(ids))
    with path.open("w", encoding="ascii") as file:
        for name, sequence, taxon in zip(ids, residues, taxa, strict=True):
            lines = "\n".join(sequence[start : start + 60] for start in range(0, len(sequence), 60))
            file.write(f">sp|{name}|{name}_SYNTH Synthetic protein OX={taxon}\n{lines}\n")


def write_terms(path: Path, ids: Sequence[str], stated: Sequence[Sequence[int]], dag: Dag) -> int:
    """`EntryID term aspect` rows; how many."""
    letter = {"molecular_function": "MFO", "biological_process": "BPO", "cellular_component": "CCO"}
    rows = [
        f"{name}\t{dag.ids[term]}\t{letter[dag.namespaces[term]]}\n"
        for name, terms in zip(ids, stated, strict=True)
        for term in terms
    ]
    path.write_text("EntryID\tterm\taspect\n" + "".join(rows), encoding="ascii")
    return len(rows)
