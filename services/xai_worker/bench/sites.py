"""Known binding sites of real proteins, against four controls, with paired statistics.

The controls need no explanation: a random order, the amino acids that sites of the class are made of
(from the other splits), the certainty of the protein language model, and the attention that a residue
receives. What does not beat the amino-acid prior has found nothing that the composition does not say.

Sites are BioLiP's; a residue without one is not known to bind nothing, so precision is a lower bound.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import false_discovery_control, wilcoxon

from services.xai_worker.bench.base import SEED, Check, Figure, FloatArray, Material, Release, Row, Section
from services.xai_worker.bench.rankings import amino_acid_prior, by_prior, encoder_controls, random_order, ranked
from services.xai_worker.explainers import ResiduePath
from services.xai_worker.localisation import average_precision
from services.xai_worker.paths import PooledPath, SequencePath
from services.xai_worker.readers import SequenceModel
from shared.errors import DataError
from shared.fasta import read_fasta
from shared.homology import cluster
from shared.models.features import Features
from shared.nn.heads import MlpModel
from shared.progress import progress

# A class of ligands -> the terms that say so, most specific first; the first that the model scores is explained. Version 1.
TERMS: Mapping[str, tuple[str, ...]] = {
    "metal": ("GO:0046872", "GO:0043169", "GO:0043167"),
    "nuclear": ("GO:0003677", "GO:0003723", "GO:0003676"),
    "small": ("GO:0036094", "GO:0000166", "GO:0005524"),
}
PROTEINS = 200  # per class, or as many as there are
LONGEST = 1000  # residues
METHODS = (("cnn", "occlusion"), ("mlp/esm2", "pooled_exact"))  # the default ranking and the fast tier
CONTROLS = ("random", "amino_acid_prior", "plm_entropy", "attention")
DRAWS = 2000
SIGNIFICANT = 0.05
Known = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """One protein with the sites of one class; `split` keeps what the prior is made of apart from it."""

    accession: str
    split: str
    ligands: str
    sequence: str
    sites: frozenset[int]


def measure(material: Material) -> Section:
    """Mean average precision by class and method, and every method's paired difference to every control."""
    if material.residues is None:
        why = "no data: export GOWHY_DATA"
        return Section("Known binding sites", why, (), [Check("known sites", None, why, f">= {PROTEINS} per class")])
    cases = read_cases(material.residues)
    rows: list[Row] = []
    checks: list[Check] = []
    for ligands in TERMS:
        of_class = [case for case in cases if case.ligands == ligands]
        term = next((t for t in TERMS[ligands] if t in material.release.run.stacker_terms), None)
        name = f"known sites, {ligands}"
        if term is None:
            checks.append(Check(name, None, f"the model scores none of {', '.join(TERMS[ligands])}", "measured"))
            continue
        usable = [case for case in of_class if len(case.sequence) <= LONGEST]
        chosen = _drawn(usable, material.at_most(PROTEINS))
        figures = measured(material.release, chosen, of_class, term)
        found = table(ligands, term, chosen, figures)
        rows += found
        wanted = min(PROTEINS, len(usable))
        full = material.limit is None
        checks.append(
            Check(
                name,
                len(chosen) >= wanted if full else None,
                f"{len(chosen)} proteins",
                f">= {wanted} (of {len(of_class)})",
            )
        )
    _adjust(rows)
    verdicts = verdicts_of(rows)
    text = "Average precision of known binding residues. " + " ".join(verdicts)
    bars = {row["class"]: [] for row in rows if row["against"] == ""}  # type: ignore[var-annotated]
    for row in rows:
        if row["against"] == "":
            bars[row["class"]].append((f"{row['model']} {row['method']}", row["AP"]))
    figure = Figure("sites", "Known binding sites", "", "average precision", bars, kind="bars")
    return Section("Known binding sites", text, rows, checks, [figure] if bars else [])


def read_cases(folder: Path) -> list[Case]:
    """Proteins with their sites, sorted.

    Raises:
        DataError: a site lies behind the end of its sequence.
    """
    sequences = {record.id: record.sequence for record in read_fasta(folder / "sequences.fasta.gz")}
    with gzip.open(folder / "binding_residues.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    cases = []
    for row in rows:
        sites = frozenset(int(position) for position in row["positions_1based"].split(","))
        sequence = sequences[row["EntryID"]]
        if max(sites) > len(sequence):
            raise DataError(f"site {max(sites)} lies behind {len(sequence)} residues", where=row["EntryID"])
        cases.append(Case(row["EntryID"], row["split"], row["ligand_class"], sequence, sites))
    return sorted(cases, key=lambda case: (case.ligands, case.accession))


def measured(
    release: Release, chosen: Sequence[Case], of_class: Sequence[Case], term: str
) -> dict[tuple[str, str], FloatArray]:
    """(model, method) -> average precision of each chosen protein; NaN where a method cannot be had."""
    priors = {
        split: amino_acid_prior({c.sequence: c.sites for c in of_class if c.split != split})
        for split in {case.split for case in chosen}
    }
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    with progress(f"known sites, {term}", len(chosen), "protein") as bar:
        for case in chosen:
            values = {("none", "random"): random_order(case.sequence)}
            values["none", "amino_acid_prior"] = by_prior(case.sequence, priors[case.split])
            controls = encoder_controls(release.model.encoders["esm2"], case.sequence)
            values.update({("none", name): controls[name] for name in controls})
            for model, method in METHODS:
                values[model, method] = ranked(path_of(release, model, case, term), method)[0]
            is_site = np.zeros(len(case.sequence), bool)
            is_site[[position - 1 for position in case.sites]] = True
            for key, value in values.items():
                found[key].append(average_precision(value, is_site))
            bar.advance(1)
    return {key: np.array(value) for key, value in found.items()}


def path_of(release: Release, model: str, case: Case, term: str) -> ResiduePath:
    """A path of a protein that the run does not have: no text, an unknown taxon."""
    level1, _, modality = model.partition("/")
    members = release.model.level1[level1]
    columns = [members[0].terms.index(term)]
    if not modality:
        readers = [member for member in members if isinstance(member, SequenceModel)]
        return SequencePath(model, readers, case.sequence, columns)
    heads = [member for member in members if isinstance(member, MlpModel)]
    dense: dict[str, np.ndarray] = {
        name: release.model.encoders[name].embed([case.sequence])
        if name in release.model.encoders
        else np.zeros((1, dim), np.float32)
        for name, dim in heads[0].space.dims.items()
    }
    features = Features([case.accession], [case.sequence], dense, np.zeros(1, np.int64), None)
    return PooledPath(
        modality,
        release.model.encoders[modality],
        heads,
        features,
        columns,
        reference=lambda: release.run.mean_embedding(modality),
    )


def table(ligands: str, term: str, chosen: Sequence[Case], figures: Mapping[tuple[str, str], FloatArray]) -> list[Row]:
    """Each ranking's mean, then each method's paired difference to each control, by homology cluster."""
    clusters = _clusters(chosen)
    rows: list[dict[str, object]] = []
    common = {"class": ligands, "term": term, "n": len(chosen)}
    for (model, method), values in sorted(figures.items()):
        mean, low, high = clustered(values, clusters)
        rows.append({**common, "model": model, "method": method, "against": "", "AP": mean, "low": low, "high": high})
    for key in METHODS:
        for control in CONTROLS:
            if ("none", control) not in figures:
                continue
            difference = figures[key] - figures["none", control]
            mean, low, high = clustered(difference, clusters)
            p = float(wilcoxon(difference, alternative="greater").pvalue) if difference.any() else 1.0
            rows.append(
                {**common, "model": key[0], "method": key[1], "against": control, "AP": mean, "low": low, "high": high, "p": p}
            )  # fmt: skip
    return rows  # type: ignore[return-value]


def clustered(values: FloatArray, clusters: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % interval of a bootstrap that draws whole homology clusters."""
    names, which = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(which, values), np.bincount(which).astype(float)
    draws = np.random.default_rng(SEED).integers(0, len(names), (DRAWS, len(names)))
    low, high = np.quantile(sums[draws].sum(1) / counts[draws].sum(1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def verdicts_of(rows: Sequence[Row]) -> list[str]:
    """One sentence per class and method: does it beat the amino-acid prior, with an interval above 0 and q below 0.05?"""
    said = []
    for row in rows:
        if row["against"] == "amino_acid_prior":
            better = row["low"] > 0 and row["q"] < SIGNIFICANT
            said.append(
                f"{row['class']}: {row['model']} {row['method']} {'beats' if better else 'does NOT beat'} the amino-acid prior "
                f"({row['AP']:+.3f}, {row['low']:+.3f} to {row['high']:+.3f})."
            )
    return said


def _adjust(rows: list[Row]) -> None:
    """Benjamini-Hochberg over all comparisons, in place."""
    tested = [row for row in rows if "p" in row]
    if tested:
        for row, q in zip(tested, false_discovery_control([row["p"] for row in tested]), strict=True):
            row["q"] = float(q)  # type: ignore[index]


def _clusters(chosen: Sequence[Case]) -> np.ndarray:
    with TemporaryDirectory(prefix="gowhy-bench-") as work:
        return cluster(
            [case.accession for case in chosen],
            [case.sequence for case in chosen],
            min_seq_id=0.3,
            coverage=0.8,
            linear=False,
            threads=1,
            work=Path(work),
        )


def _drawn(cases: Sequence[Case], count: int) -> list[Case]:
    order = np.random.default_rng(SEED).permutation(len(cases))[:count]
    return [cases[i] for i in sorted(order.tolist())]
