"""Stage 1's parsing (ontology, FASTA, labels with their ancestors) beside the usual loops over pandas and obonet."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx
import numpy as np
import obonet
import pandas as pd
from scipy import sparse

from benchmarks import synthetic
from benchmarks.peers.contest import Contest, Result, Way, interleave
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as line
from services.train.data.tables import label_matrix, read_labels
from shared.fasta import read_fasta_table
from shared.ontology import Ontology, propagate_labels

PROTEINS, TERMS, EACH, LEAST = 100_000, 6000, 5.0, 10.0
OURS, THEIRS = "gowhy", "pandas, obonet and loops"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What either side ends with: facts of the proteins, and their labels as sorted CSR rows over its own term order."""

    terms: Sequence[str]
    lengths: Result
    taxa: Result
    pointer: Result
    index: Result

    def comparable(self) -> Result:
        """All of it in one array, over terms by name."""
        names = np.array(self.terms)
        place = np.empty(len(names), np.int64)
        place[np.argsort(names)] = np.arange(len(names))
        shape = (len(self.lengths), len(names))
        labels = sparse.csr_array((np.ones(len(self.index), np.bool_), place[self.index], self.pointer), shape=shape)
        labels.sort_indices()
        return np.concatenate([self.lengths, self.taxa, labels.indptr, labels.indices])


def compare(rounds: int) -> list[Comparison]:
    """The result of either side: rows and columns of all labels, and the proteins' lengths and taxa."""
    with tempfile.TemporaryDirectory(prefix="gowhy-bench-") as temporary:
        rows = write_files(Path(temporary), PROTEINS)
        found = contest(Path(temporary), rounds)
    same = np.array_equal(found.results[OURS], found.results[THEIRS])
    return [
        line(
            found,
            OURS,
            THEIRS,
            name="parsing of stage 1",
            sizes=f"{PROTEINS} proteins, {rows} labels, {TERMS} terms",
            least=LEAST,
            difference=0.0 if same else np.inf,
            tolerance=0.0,
        )
    ]


def contest(folder: Path, rounds: int) -> Contest:
    """Both sides on the same files; bringing the results into one order is not timed."""
    return interleave({THEIRS: way(loops, folder), OURS: way(ours, folder)}, rounds)


def way(parse: Callable[[Path], Parsed], folder: Path) -> Way:
    """One side."""

    def run() -> tuple[float, Result]:
        started = time.process_time()
        found = parse(folder)
        return time.process_time() - started, found.comparable()

    return run


def write_files(folder: Path, proteins: int) -> int:
    """Ontology, FASTA and labels; the number of labels."""
    dag = synthetic.make_dag(TERMS)
    ids = synthetic.protein_ids(proteins)
    synthetic.write_obo(folder / "go.obo", dag)
    synthetic.write_fasta(folder / "train.fasta", ids, synthetic.sequences(proteins))
    return synthetic.write_terms(folder / "terms.tsv", ids, synthetic.labels(proteins, dag, each=EACH), dag)


def ours(folder: Path) -> Parsed:
    """As stage 1 does it."""
    ontology = Ontology.parse(folder / "go.obo")
    proteins = read_fasta_table(folder / "train.fasta")
    stated, _ = label_matrix(read_labels(folder / "terms.tsv", ontology), proteins.ids, len(ontology))
    labels = propagate_labels(stated, ontology)
    lengths = np.array(list(map(len, proteins.sequences)))
    taxa = np.array([taxon or 0 for taxon in proteins.taxa])
    return Parsed(ontology.terms, lengths, taxa, labels.indptr, labels.indices)


def loops(folder: Path) -> Parsed:
    """The idiom of published CAFA notebooks: obonet's graph, ancestors of a term kept once found, a set per protein."""
    graph = obonet.read_obo(folder / "go.obo")
    names: dict[str, str] = {term: data["namespace"] for term, data in graph.nodes(data=True)}
    upward = networkx.DiGraph(
        (child, parent) for child, parent, kind in graph.edges(keys=True) if kind in ("is_a", "part_of")
    )
    number = {term: place for place, term in enumerate(sorted(names))}
    ancestors: dict[str, set[int]] = {}
    sequences: dict[str, list[str]] = {}
    taxa: dict[str, int] = {}
    with (folder / "train.fasta").open() as file:
        for text in file:
            if text.startswith(">"):
                name = text[1:].split()[0].split("|")[1]
                sequences[name] = parts = []
                taxa[name] = int(text.split("OX=")[1].split()[0])
            else:
                parts.append(text.strip())
    joined = {name: "".join(parts) for name, parts in sequences.items()}
    labels: dict[str, set[int]] = {name: set() for name in joined}
    table = pd.read_csv(folder / "terms.tsv", sep="\t")
    for row in table.itertuples():
        name, stated = str(row.EntryID), str(row.term)
        if stated not in ancestors:
            above = networkx.descendants(upward, stated) if stated in upward else set()
            ancestors[stated] = {number[term] for term in (stated, *above)}
        labels[name] |= ancestors[stated]
    indices = [sorted(labels[name]) for name in joined]
    return Parsed(
        list(number),
        np.array([len(joined[name]) for name in joined]),
        np.array([taxa[name] for name in joined]),
        np.cumsum([0, *map(len, indices)]),
        np.array([term for row in indices for term in row]),
    )
