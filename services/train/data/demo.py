"""The demo data set: generated proteins in which real, published motifs stand for their real GO terms.

MF terms come from planted motifs, which only the sequence shows; BP and CC terms follow families, taxa
and a signal peptide, so that homology, text and GOA have something to say too. `truth_sites.tsv` lists
the constrained positions of every planted motif: what an explanation of the motif's term should find.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from services.train.data.demo_proteins import DemoProtein, Odds, make_families, make_member

Size = Literal["demo", "smoke"]

ONTOLOGY = Path(__file__).with_name("demo_go.obo")
ODDS = Odds(eligible_family=0.6, planted=0.6, broken=0.0)
MEMBERS_PER_FAMILY = 8
UNANNOTATED = 0.1  # of proteins, per aspect BP and CC: nobody looked
WITH_TEXT, WITH_GOA, GOA_RIGHT = 0.7, 0.4, 0.85

TAXA = {
    9606: "Homo sapiens",
    10090: "Mus musculus",
    559292: "Saccharomyces cerevisiae",
    83333: "Escherichia coli",
    3702: "Arabidopsis thaliana",
}
PLANT, PLASTID = 3702, "GO:0009507"
EXTRACELLULAR = "GO:0005576"

# What a family does when no motif says it, where, and in which process.
MF_ROLES = ("GO:0016740", "GO:0016491", "GO:0003735", "GO:0022857")
CC_ROLES = ("GO:0005829", "GO:0005634", "GO:0005739", "GO:0005783", "GO:0005886", "GO:0005730")
BP_ROLES = {
    "GO:0006281": "Takes part in the repair of damaged DNA.",
    "GO:0006412": "Needed for efficient protein synthesis on ribosomes.",
    "GO:0006508": "Degrades misfolded polypeptides.",
    "GO:0006914": "Mutants fail to form autophagosomes under starvation.",
    "GO:0009409": "Expressed after a cold shock.",
    "GO:0055085": "Moves small solutes across membranes.",
    "GO:0007165": "Relays signals from receptors at the surface.",
}
FILLER = (
    "Uncharacterised member of a conserved family.",
    "Found in a large proteomic survey.",
    "The structure has not been determined.",
    "Expressed in most tissues that were examined.",
    "Shows weak similarity to hypothetical proteins.",
)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many proteins of each part."""

    train: int
    test: int


SIZES: dict[Size, Counts] = {"demo": Counts(480, 96), "smoke": Counts(84, 24)}


@dataclass(frozen=True, slots=True)
class Entry:
    """One protein of the data set with everything that is said of it."""

    accession: str
    protein: DemoProtein
    taxon: int
    terms: tuple[str, ...]  # the most specific ones, sorted
    text: str | None


def write_demo(folder: Path, *, size: Size, seed: int) -> dict[str, Path]:
    """Write the data set into an existing folder; equal arguments give equal bytes.

    Returns:
        paths by `data.*` key, and `sites` for the planted positions.
    """
    rng = np.random.default_rng([seed, len(size)])
    counts = SIZES[size]
    entries = make_entries(counts.train + counts.test, rng)
    train, test = entries[: counts.train], entries[counts.train :]
    paths = {key: folder / name for key, name in FILES.items()}
    write_lines(paths["train_fasta"], (train_record(entry) for entry in train))
    write_lines(paths["test_fasta"], (f">{e.accession} {e.taxon}\n{e.protein.sequence}" for e in test))
    for part, members in (("train", train), ("test", test)):
        write_lines(paths[f"{part}_taxonomy"], (f"{e.accession}\t{e.taxon}" for e in members))
        write_lines(
            paths[f"{part}_terms"], ["EntryID\tterm\taspect", *(line for e in members for line in term_lines(e))]
        )
    write_lines(paths["text"], ["EntryID\ttext", *(f"{e.accession}\t{e.text}" for e in entries if e.text)])
    write_lines(paths["gaf"], ["!gaf-version: 2.2", "!date-generated: 2026-01-01", *gaf_lines(entries, rng)])
    write_lines(paths["sites"], ["accession\tterm\tposition", *(line for e in entries for line in site_lines(e))])
    shutil.copyfile(ONTOLOGY, paths["obo"])
    return paths


FILES = {
    "train_fasta": "train.fasta",
    "train_terms": "train_terms.tsv",
    "train_taxonomy": "train_taxonomy.tsv",
    "test_fasta": "test.fasta",
    "test_terms": "test_terms.tsv",
    "test_taxonomy": "test_taxonomy.tsv",
    "text": "text.tsv",
    "gaf": "demo.gaf",
    "obo": "demo.obo",
    "sites": "truth_sites.tsv",
}


def make_entries(count: int, rng: np.random.Generator) -> list[Entry]:
    """Proteins of all families in random order, so that train and test share most families."""
    families = make_families(max(6, count // MEMBERS_PER_FAMILY), ODDS, rng)
    proteins = [make_member(i % len(families), families[i % len(families)], ODDS, rng) for i in range(count)]
    taxa = list(TAXA)
    entries = []
    for number, index in enumerate(rng.permutation(count).tolist(), start=1):
        protein = proteins[index]
        taxon = taxa[int(rng.integers(len(taxa)))]
        terms = annotate(protein, taxon, rng)
        entries.append(Entry(f"DEMO{number:04d}", protein, taxon, terms, describe(terms, rng)))
    return entries


def annotate(protein: DemoProtein, taxon: int, rng: np.random.Generator) -> tuple[str, ...]:
    """The terms of a protein: motifs, else the family's activity; the family's process; a place by signal, taxon or family."""
    family = protein.family
    terms = set(protein.sites) or {MF_ROLES[family % len(MF_ROLES)]}
    if rng.random() >= UNANNOTATED:
        terms.add(list(BP_ROLES)[family % len(BP_ROLES)])
    if rng.random() >= UNANNOTATED:
        place = CC_ROLES[family % len(CC_ROLES)]
        if protein.signal:
            place = EXTRACELLULAR
        elif taxon == PLANT and family % 3 == 0:
            place = PLASTID
        terms.add(place)
    return tuple(sorted(terms))


def describe(terms: tuple[str, ...], rng: np.random.Generator) -> str | None:
    """A few sentences, one of which may tell the process; None for proteins that nobody wrote about."""
    if rng.random() >= WITH_TEXT:
        return None
    sentences = [str(s) for s in rng.choice(FILLER, size=2, replace=False)]
    told = [BP_ROLES[term] for term in terms if term in BP_ROLES]
    if told and rng.random() < WITH_TEXT:
        sentences.insert(1, told[0])
    return " ".join(sentences)


def train_record(entry: Entry) -> str:
    """A FASTA record with a UniProt header."""
    name = TAXA[entry.taxon]
    return f">sp|{entry.accession}|{entry.accession}_DEMO Generated protein OS={name} OX={entry.taxon}\n{entry.protein.sequence}"


def term_lines(entry: Entry) -> list[str]:
    """Rows of a CAFA terms table."""
    return [f"{entry.accession}\t{term}\t{aspect_code(term)}" for term in entry.terms]


def aspect_code(term: str) -> str:
    """F, P or C."""
    if term in BP_ROLES:
        return "P"
    return "C" if term in (*CC_ROLES, PLASTID, EXTRACELLULAR) else "F"


def site_lines(entry: Entry) -> list[str]:
    """Constrained positions of every planted motif, 1-based."""
    return [
        f"{entry.accession}\t{term}\t{p + 1}"
        for term, positions in sorted(entry.protein.sites.items())
        for p in positions
    ]


def gaf_lines(entries: list[Entry], rng: np.random.Generator) -> list[str]:
    """Electronic annotations, mostly right and only of processes and places; a few experimental and a few negated ones."""
    lines = []
    processes, places = list(BP_ROLES), [*CC_ROLES, EXTRACELLULAR]
    for entry in entries:
        if rng.random() >= WITH_GOA:
            continue
        family = entry.protein.family
        right = rng.random() < GOA_RIGHT
        process = processes[(family if right else int(rng.integers(len(processes)))) % len(processes)]
        lines.append(gaf_line(entry, "involved_in", process, "IEA", "P"))
        if rng.random() < 0.5:
            lines.append(gaf_line(entry, "located_in", places[family % len(CC_ROLES)], "ISS", "C"))
        if rng.random() < 0.1:
            lines.append(gaf_line(entry, "NOT|involved_in", processes[(family + 1) % len(processes)], "IEA", "P"))
        if rng.random() < 0.1:
            lines.append(gaf_line(entry, "involved_in", process, "IDA", "P"))
    return lines


def gaf_line(entry: Entry, relation: str, term: str, evidence: str, aspect: str) -> str:
    """One row of GAF 2.2."""
    name = entry.accession
    row = (
        "UniProtKB",
        name,
        name,
        relation,
        term,
        "GO_REF:0000002",
        evidence,
        "",
        aspect,
        "Generated protein",
        "",
        "protein",
        f"taxon:{entry.taxon}",
        "20250101",
        "UniProt",
        "",
        "",
    )
    return "\t".join(row)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Text lines, each ended by a newline."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
