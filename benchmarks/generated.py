"""Generated ontologies and annotation files of any size, for the rows; every value follows from the seed."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

NAMESPACES = ("molecular_function", "biological_process", "cellular_component")
LETTERS = "FPC"
DEPTH = 15
RESIDUES = np.frombuffer(b"ACDEFGHIKLMNPQRSTVWY", np.uint8)


def random_parents(terms: int, seed: int = 0) -> list[list[int]]:
    """A DAG shaped like GO (1.9 parents per term, depth about 14); parents have smaller numbers than children."""
    rng = np.random.default_rng(seed)
    level = np.clip(np.round(rng.normal(6.5, 2.2, terms)), 1, DEPTH).astype(int)
    level[0] = 0
    level.sort()
    first = np.searchsorted(level, np.arange(DEPTH + 2))
    parents: list[list[int]] = [[]]
    for term in range(1, terms):
        above = int(level[term]) - 1
        while first[above] == first[above + 1]:
            above -= 1
        chosen = {int(rng.integers(first[above], first[above + 1]))}
        chosen.update(int(rng.integers(0, first[level[term]])) for _ in range(rng.poisson(0.9)))
        parents.append(sorted(chosen))
    return parents


def write_obo(path: Path, terms: int, namespaces: int = 1, seed: int = 0, part_of: float = 0.0) -> list[list[str]]:
    """An OBO file with `terms` terms over some namespaces; returns each namespace's ids, root first.

    Args:
        path: of the file.
        terms: in all.
        namespaces: one root each.
        seed: of the graph.
        part_of: share of edges written as `relationship: part_of`.
    """
    rng = np.random.default_rng(seed)
    groups: list[list[str]] = []
    start = 1
    with path.open("w", encoding="utf-8") as file:
        file.write("format-version: 1.2\ndata-version: releases/2026-01-01\n\n")
        for number in range(namespaces):
            count = terms // namespaces + (number < terms % namespaces)
            ids = [f"GO:{start + term:07d}" for term in range(count)]
            for term, parents in enumerate(random_parents(count, seed + number)):
                file.write(f"[Term]\nid: {ids[term]}\nname: term {start + term}\nnamespace: {NAMESPACES[number]}\n")
                for parent in parents:
                    is_part = rng.random() < part_of
                    file.write(f"{'relationship: part_of' if is_part else 'is_a:'} {ids[parent]} ! name\n")
                file.write("\n")
            groups.append(ids)
            start += count
    return groups


def write_evaluation(folder: Path, proteins: int, terms: int, namespaces: int, seed: int = 1) -> None:
    """`go.obo`, `ia.tsv`, `truth.tsv` and `pred/p.tsv`: about 38 predictions per protein, ties, proteins without any."""
    rng = np.random.default_rng(seed)
    (folder / "pred").mkdir(parents=True, exist_ok=True)
    groups = write_obo(folder / "go.obo", terms, namespaces, seed, part_of=0.2 if namespaces > 1 else 0.0)
    leaves = np.array([term for ids in groups for term in ids[1:]])
    bits = rng.gamma(2, 1.5, len(leaves))
    bits[rng.random(len(leaves)) < 0.1] = 0
    rows = [f"{term}\t{value}\n" for term, value in zip(leaves.tolist(), bits.tolist(), strict=True)]
    (folder / "ia.tsv").write_text("".join(rows))
    with (folder / "truth.tsv").open("w") as truth, (folder / "pred" / "p.tsv").open("w") as predictions:
        for protein in range(proteins):
            true = {int(term) for term in rng.integers(0, len(leaves), max(1, rng.poisson(5)))}
            truth.writelines(f"P{protein:06d}\t{leaves[term]}\n" for term in sorted(true))
            if protein % 20 == 7:
                continue
            drawn = {int(term) for term in rng.integers(0, len(leaves), 35)}
            found = drawn | {term for term in sorted(true) if rng.random() < 0.6}
            for term in sorted(found):
                score = rng.beta(3, 2) if term in true else rng.beta(1, 4)
                text = f"{score:.3f}" if protein % 2 else f"{score:.2f}"
                if float(text) > 0:
                    predictions.write(f"P{protein:06d}\t{leaves[term]}\t{text}\n")


def write_fasta(path: Path, ids: list[str], seed: int = 2) -> None:
    """Random proteins of log-normal length, in lines of 60 residues, with UniProt headers."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(np.log(350), 0.65, len(ids))).astype(int).clip(30, 2000)
    with path.open("w", encoding="ascii") as file:
        for number, (name, length) in enumerate(zip(ids, lengths.tolist(), strict=True)):
            sequence = RESIDUES[rng.integers(0, len(RESIDUES), length)].tobytes().decode()
            lines = "\n".join(sequence[start : start + 60] for start in range(0, length, 60))
            file.write(f">sp|{name}|{name}_X Protein OS=Some OX={9000 + number % 40}\n{lines}\n")


def write_terms(path: Path, ids: list[str], groups: list[list[str]], rows: int, seed: int = 3) -> None:
    """`EntryID term aspect` rows, every protein at least once; some terms are frequent."""
    rng = np.random.default_rng(seed)
    pairs = [(term, letter) for group, letter in zip(groups, LETTERS, strict=False) for term in group[1:]]
    weight = rng.permutation(1 / np.arange(2, len(pairs) + 2) ** 0.6)
    protein = np.concatenate([np.arange(len(ids)), rng.integers(0, len(ids), rows - len(ids))])
    term = rng.choice(len(pairs), rows, p=weight / weight.sum())
    with path.open("w", encoding="ascii") as file:
        file.write("EntryID\tterm\taspect\n")
        for p, t in zip(protein.tolist(), term.tolist(), strict=True):
            file.write(f"{ids[p]}\t{pairs[t][0]}\t{pairs[t][1]}\n")


def write_gaf(path: Path, ids: list[str], groups: list[list[str]], rows: int, seed: int = 4) -> None:
    """A gzipped GAF 2.2 file over `ids`, of codes that are wanted and not."""
    rng = np.random.default_rng(seed)
    pairs = [(term, letter) for group, letter in zip(groups, LETTERS, strict=False) for term in group[1:]]
    codes = ("IEA", "IBA", "ISS", "IDA", "TAS", "ND")
    protein, term, code = (rng.integers(0, size, rows).tolist() for size in (len(ids), len(pairs), len(codes)))
    negated = (rng.random(rows) < 0.01).tolist()
    with gzip.open(path, "wt", encoding="ascii", compresslevel=3) as file:
        file.write("!gaf-version: 2.2\n!date-generated: 2026-01-01\n")
        for p, t, c, n in zip(protein, term, code, negated, strict=True):
            name, (go, aspect) = ids[p], pairs[t]
            file.write(
                f"UniProtKB\t{name}\t{name}_X\t{'NOT|' if n else ''}enables\t{go}\tGO_REF:1\t{codes[c]}\t\t{aspect}\t"
                f"Some protein\tsyn\tprotein\ttaxon:9606\t20250101\tUniProt\t\t\n"
            )
