"""Planted motifs: generated proteins in which the residues that make a term true are known.

Three kinds of motif: a run of residues, residues with gaps of any letter between them, and pairs far
apart. Validation and test proteins only; each holds the residues of the motifs that it does not carry,
too, scattered. Source of the patterns: PROSITE (see `services/train/data/motifs.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from services.xai_worker.bench.base import (
    Check,
    Figure,
    FloatArray,
    Material,
    Release,
    Row,
    Section,
    mean_interval,
    unseen,
)
from services.xai_worker.bench.rankings import (
    DEFAULT,
    RANKINGS,
    amino_acid_prior,
    by_prior,
    encoder_controls,
    gradients,
    random_order,
    ranked,
)
from services.xai_worker.explainers import ResiduePath
from services.xai_worker.localisation import average_precision
from services.xai_worker.paths import residue_path
from services.xai_worker.readers import MaskedCache
from shared.progress import progress

FAMILIES: Mapping[str, str] = {
    "GO:0004252": "contiguous",  # PS00134, trypsin family histidine active site
    "GO:0003724": "contiguous",  # PS00039, DEAD box
    "GO:0005524": "gapped",  # PS00017, P-loop
    "GO:0005509": "gapped",  # PS00018, EF-hand
    "GO:0008270": "distant pairs",  # PS00028, C2H2 zinc finger
}
MODELS = {"cnn": tuple(n for n in RANKINGS if n != "pooled_exact"), "mlp/esm2": ("occlusion", "pooled_exact")}
PER_TERM = 8  # proteins, per seed
MEAN_LIMIT, WORST_LIMIT = 0.9, 0.8


def measure(material: Material) -> Section:
    """Average precision of the planted residues, by family and seed, for every method."""
    found: dict[tuple[str, str], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    prevalence: list[float] = []
    with progress("planted motifs", len(material.planted), "seed") as bar:
        for release in material.planted:
            for (protein, term), is_site in pairs(release, material.at_most(PER_TERM)).items():
                prevalence.append(float(is_site.mean()))
                for key, values in every_ranking(release, protein, term).items():
                    found[key][FAMILIES[term], release.name].append(average_precision(values, is_site))
            bar.advance(1)
    if not prevalence:
        why = "no run on generated proteins was given; see `make xai-bench`"
        return Section("Planted motifs", why, (), [Check("planted motifs", None, why, f">= {MEAN_LIMIT}")])
    rows = [_row(*key, cells) for key, cells in sorted(found.items())]
    default = next(row for row in rows if (row["model"], row["method"]) == ("cnn", DEFAULT))
    text = (
        f"Average precision of the planted residues, {len(prevalence)} pairs of protein and term from "
        f"{len(material.planted)} seeds; prevalence {np.mean(prevalence):.3f}. The models were trained on those seeds by the same code; they are not the release."
    )
    figure = Figure(
        "planted", "Planted motifs", "", "average precision",
        {family: [(f"{r['model']} {r['method']}", r[family]) for r in rows] for family in sorted(set(FAMILIES.values()))},
        kind="bars",
    )  # fmt: skip
    checks = [
        Check("planted motifs, mean", default["AP"] >= MEAN_LIMIT, f"{default['AP']:.3f}", f">= {MEAN_LIMIT}"),
        Check(
            "planted motifs, worst family",
            default["worst"] >= WORST_LIMIT,
            f"{default['worst']:.3f}",
            f">= {WORST_LIMIT}",
        ),
    ]
    return Section("Planted motifs", text, rows, checks, [figure])


def pairs(release: Release, per_term: int) -> dict[tuple[str, str], np.ndarray]:
    """Unseen (protein, term) with planted residues -> which residues they are; the same number of each term."""
    found: dict[tuple[str, str], np.ndarray] = {}
    count: dict[str, int] = defaultdict(int)
    for protein in unseen(release):
        for term in FAMILIES:
            if (protein, term) in release.sites and term in release.run.stacker_terms and count[term] < per_term:
                count[term] += 1
                is_site = np.zeros(len(release.run.sequence(release.run.places[protein])), bool)
                is_site[[position - 1 for position in release.sites[protein, term]]] = True
                found[protein, term] = is_site
    return found


def path_of(
    release: Release, model: str, protein: str, terms: list[str], cache: MaskedCache | None = None
) -> ResiduePath:
    """The path of one protein through one model."""
    return residue_path(release.model, release.run, model, release.run.places[protein], terms, cache=cache)


def every_ranking(release: Release, protein: str, term: str) -> dict[tuple[str, str], FloatArray]:
    """(model, method) -> values [residues] of one pair; models `none` are controls that ask no model of the term."""
    sequence, found = release.run.sequence(release.run.places[protein]), {}
    for model, methods in MODELS.items():
        path = path_of(release, model, protein, [term])
        for name in methods:
            found[model, name] = ranked(path, name)[0]
        if model == "cnn":
            found.update({(model, name): values[0] for name, values in gradients(path).items()})
    found["none", "amino_acid_prior"] = by_prior(sequence, _prior(release, term))
    found["none", "random"] = random_order(sequence)
    for name, values in encoder_controls(release.model.encoders["esm2"], sequence).items():
        found["none", name] = values
    return found


def _prior(release: Release, term: str) -> Mapping[str, float]:
    """Log-odds of the term's sites among the proteins that were fitted on."""
    places = release.run.places
    return amino_acid_prior(
        {
            release.run.sequence(places[p]): positions
            for (p, t), positions in release.sites.items()
            if t == term and p in places and places[p].fold is not None
        }
    )


def _row(model: str, method: str, cells: Mapping[tuple[str, str], list[float]]) -> Row:
    families = sorted({family for family, _ in cells})
    by_family = {f: float(np.mean([np.mean(v) for (name, _), v in cells.items() if name == f])) for f in families}
    mean, low, high = mean_interval([float(np.mean(v)) for v in cells.values()])
    row: dict[str, Any] = {"model": model, "method": method, "AP": mean, "low": low, "high": high}
    return {**row, "worst": min(by_family.values()), **by_family, "n": sum(len(v) for v in cells.values())}
