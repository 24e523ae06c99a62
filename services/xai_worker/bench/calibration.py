"""Do the gates mean what they say? Pass rates where nothing is to be found, and where it is.

A gate at the level of 1 % must pass at most about 1 % of explanations that are random orders, and the
sites' gate at most 5 % of smooth random explanations; on planted motifs the faithfulness gate should
pass nearly always. Whether predictions whose explanation passes are right more often is reported.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import betabinom, binomtest

from services.xai_worker.bench.base import SEED, Check, Figure, Material, Release, Row, Section, unseen
from services.xai_worker.bench.planted import FAMILIES, pairs, path_of
from services.xai_worker.bench.rankings import ranked
from services.xai_worker.gates.faithfulness import ORDERS, P_LIMIT, RandomMasks, faithfulness
from services.xai_worker.gates.sites import P_LIMIT as SITES_LIMIT
from services.xai_worker.gates.sites import site_enrichment
from services.xai_worker.readers import MaskedCache
from shared.progress import progress

PER_TERM = 3
RANDOM_EXPLANATIONS = 40  # per protein
SMOOTH = 9  # residues over which random explanations are averaged
CONFIDENT = 0.5
POWER = 0.8
SIMULATED = 20_000


def measure(material: Material) -> Section:
    """Pass rates of the faithfulness and the sites' gate."""
    release = material.planted[0] if material.planted else None
    if release is None:
        why = "no run on generated proteins was given"
        return Section("Calibration of the gates", why, (), [Check("gate calibration", None, why, "measured")])
    null: list[bool] = []
    smooth: list[bool] = []
    power: list[bool] = []
    found = pairs(release, material.at_most(PER_TERM))
    rng = np.random.default_rng(SEED)
    with progress("calibration", len(found), "pair") as bar:
        for (protein, term), is_site in found.items():
            path = path_of(release, "cnn", protein, [term], MaskedCache())
            masks = RandomMasks.of(path.sequence, path.covered)  # type: ignore[attr-defined]
            scores = masks.scores(path)
            power.append(faithfulness(path, ranked(path, "occlusion")[0], 0, masks, scores).passed)
            for _ in range(material.at_most(RANDOM_EXPLANATIONS)):
                values = rng.random(len(is_site))
                null.append(faithfulness(path, values, 0, masks, scores).passed)
                wide = np.convolve(rng.normal(size=len(is_site) + SMOOTH - 1), np.ones(SMOOTH), "valid")
                smooth.append(bool(site_enrichment(wide, set((np.flatnonzero(is_site) + 1).tolist())).passed))
            bar.advance(1)
    rows: list[Row] = [
        _rate("faithfulness, random orders", null, P_LIMIT),
        _rate("sites, smooth random explanations", smooth, SITES_LIMIT),
        _rate("faithfulness, occlusion of planted motifs", power, POWER),
        *reliability(release, material.at_most(60)),
    ]
    checks = [
        shared_level("faithfulness gate, random orders", null, len(found)),
        _level("sites gate, smooth random explanations", smooth, SITES_LIMIT),
        Check(
            "faithfulness gate, planted motifs", float(np.mean(power)) >= POWER, f"{np.mean(power):.3f}", f">= {POWER}"
        ),
    ]
    bars = {"pass rate": [(str(row["what"]), row["rate"]) for row in rows]}
    text = "Share of explanations that pass a gate; levels are upper bounds, so the tests are one-sided."
    return Section(
        "Calibration of the gates",
        text,
        rows,
        checks,
        [Figure("calibration", "Calibration of the gates", "", "rate", bars, kind="bars")],
    )


def reliability(release: Release, count: int) -> list[Row]:
    """Among confident predictions of motif terms for unseen proteins: how many are right, by the gate of their explanation."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    predicted = _predicted(release)
    order = np.random.default_rng(SEED).permutation(len(predicted))[:count]
    for protein, term in (predicted[i] for i in sorted(order.tolist())):
        path = path_of(release, "cnn", protein, [term], MaskedCache())
        masks = RandomMasks.of(path.sequence, path.covered)  # type: ignore[attr-defined]
        gate = faithfulness(path, ranked(path, "occlusion")[0], 0, masks, masks.scores(path))
        right[gate.passed].append((protein, term) in release.sites)
    return [
        {"what": f"right predictions, faithfulness {'passed' if passed else 'not passed'}", "rate": float(np.mean(is_right)), "n": len(is_right)}
        for passed, is_right in right.items()
        if is_right
    ]  # fmt: skip


def _predicted(release: Release) -> list[tuple[str, str]]:
    run, terms = release.run, [term for term in FAMILIES if term in release.run.stacker_terms]
    beta = release.model.calibration.beta["MF"]
    found = []
    for protein in unseen(release):
        place = run.places[protein]
        logits = np.asarray(run.scores(place.part, "gcn")[place.row], np.float64)
        found += [(protein, t) for t in terms if beta.probabilities(logits[[run.stacker_terms[t]]])[0] >= CONFIDENT]
    return found


def _rate(what: str, passed: list[bool], level: float) -> Row:
    return {"what": what, "rate": float(np.mean(passed)), "level": level, "n": len(passed)}


def shared_level(name: str, passed: list[bool], proteins: int) -> Check:
    """As `_level`, where a protein's random explanations are compared with the same random orders.

    How easily those are beaten is the protein's own chance, Beta(1, orders) by exchangeability: the passes of
    one protein are beta-binomial, not independent.
    """
    each = len(passed) // proteins
    null = betabinom.rvs(each, 1, ORDERS, size=(SIMULATED, proteins), random_state=SEED).sum(axis=1)
    p = (1 + int((null >= sum(passed)).sum())) / (1 + SIMULATED)
    return Check(name, bool(p > 0.01), f"{np.mean(passed):.4f} of {len(passed)}, p {p:.3f}", f"<= {P_LIMIT}, p > 0.01")


def _level(name: str, passed: list[bool], level: float) -> Check:
    """A pass rate above its level, beyond chance, is a gate that promises too much."""
    p = binomtest(sum(passed), len(passed), level, alternative="greater").pvalue
    return Check(name, bool(p > 0.01), f"{np.mean(passed):.4f} of {len(passed)}", f"<= {level}")
