"""Sanity of explanations: they must change when what was learnt is taken away.

The cascade shuffles parameters from the output inwards; at its end nothing learnt is left, and an
explanation that still looks the same explains the architecture. With permuted labels a model has learnt
nothing of the proteins, and its explanations must not find the planted residues.

Source: Adebayo et al. 2018, arXiv 1810.03292; eMPRT after Hedstroem et al. 2024, arXiv 2401.06465.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from services.xai_worker.bench.base import SEED, Check, Figure, Material, Release, Row, Section, mean_interval
from services.xai_worker.bench.planted import pairs, path_of
from services.xai_worker.bench.rankings import ranked
from services.xai_worker.explainers import ResiduePath
from services.xai_worker.gates.concentration import complexity
from services.xai_worker.gates.stability import correlation
from services.xai_worker.localisation import average_precision
from services.xai_worker.paths import PooledPath, SequencePath
from services.xai_worker.targets import Chooser
from shared.progress import progress

SEEDS = 5
PROTEINS = 12
METHODS = ("occlusion", "integrated_gradients")
MODELS = ("cnn", "mlp/esm2")
LIMIT = 0.2


@dataclass(frozen=True)
class Stage:
    """A step of the cascade: which parameters of a path's parts it shuffles."""

    name: str
    modules: Callable[[ResiduePath], list[nn.Module]]


def _heads(path: ResiduePath) -> list[nn.Module]:
    return [_network(member).heads for member in path.members]  # type: ignore[attr-defined]


def _trunk(path: ResiduePath) -> list[nn.Module]:
    return [m for member in path.members for m in (_network(member).deepen, _network(member).enter)]  # type: ignore[attr-defined]


def _inputs(path: ResiduePath) -> list[nn.Module]:
    return [_network(member).inputs for member in path.members]  # type: ignore[attr-defined]


def _filters(path: ResiduePath) -> list[nn.Module]:
    return [m for member in path.members for m in (_network(member).filters, _network(member).blocks)]  # type: ignore[attr-defined]


def _encoder(path: ResiduePath) -> list[nn.Module]:
    return [path.encoder.network.module]  # type: ignore[attr-defined]


CASCADES: Mapping[str, tuple[Stage, ...]] = {
    "cnn": (Stage("heads", _heads), Stage("filters", _filters)),
    "mlp/esm2": (Stage("heads", _heads), Stage("trunk", _trunk), Stage("inputs", _inputs), Stage("encoder", _encoder)),
}


def measure(material: Material) -> Section:
    """The cascade on the release, and label randomisation where a run with permuted labels is there."""
    rows, checks, figures = _cascades(material.release, material.at_most(PROTEINS))
    labels, more = _labels(material)
    text = (
        "Spearman correlation of an explanation with that of the same model after its parameters were shuffled, from the "
        f"output inwards ({SEEDS} seeds); eMPRT is the relative rise of the number of residues that carry it. "
        f"Wanted at the end: the 95 % interval of the mean within +-{LIMIT}."
    )
    return Section("Randomisation", text, [*rows, *labels], [*checks, *more], figures)


def _cascades(release: Release, proteins: int) -> tuple[list[Row], list[Check], list[Figure]]:
    rows: list[Row] = []
    checks: list[Check] = []
    lines: dict[str, list[tuple[float | str, float]]] = {}
    for model in MODELS:
        cells: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        chosen = _some(release, proteins)
        with progress(f"randomisation {model}", len(chosen), "protein") as bar:
            for protein, term in chosen:
                path = path_of(release, model, protein, [term])
                original = {name: ranked(path, name)[0] for name in METHODS}
                for seed in range(SEEDS):
                    for stage, changed in cascade(path, CASCADES[model], seed):
                        for name in METHODS:
                            values = ranked(changed, name)[0]
                            cells[name, stage].append(
                                (correlation(original[name], values), _rise(original[name], values))
                            )
                bar.advance(1)
        for (name, stage), measured in cells.items():
            mean, low, high = mean_interval([rho for rho, _ in measured])
            rise = mean_interval([r for _, r in measured])
            rows.append(
                {"model": model, "method": name, "shuffled to": stage, "rho": mean, "low": low, "high": high,
                 "eMPRT": rise[0], "eMPRT low": rise[1], "n": len(measured)}
            )  # fmt: skip
            if stage == CASCADES[model][-1].name:
                far = max(abs(low), abs(high))
                checks.append(
                    Check(
                        f"randomisation, {model} {name}",
                        far < LIMIT,
                        f"{mean:+.3f} ({low:+.3f} to {high:+.3f})",
                        f"within {LIMIT}",
                    )
                )
            lines.setdefault(f"{model} {name}", [("none", 1.0)]).append((stage, mean))
    return rows, checks, [Figure("randomisation", "Parameter randomisation", "shuffled to", "Spearman rho", lines)]


def cascade(path: ResiduePath, stages: tuple[Stage, ...], seed: int) -> Iterator[tuple[str, ResiduePath]]:
    """Paths with ever more parameters shuffled; the given one is not touched."""
    changed = copied(path)
    generator = torch.Generator().manual_seed(SEED + seed)
    for stage in stages:
        for module in stage.modules(changed):
            shuffle(module, generator)
        yield stage.name, copied(changed)


@torch.no_grad()
def shuffle(module: nn.Module, generator: torch.Generator) -> None:
    """Permute the entries of every parameter: the sizes stay, what was learnt goes."""
    for parameter in module.parameters():
        flat = parameter.flatten()
        parameter.copy_(flat[torch.randperm(len(flat), generator=generator)].reshape(parameter.shape))


def copied(path: ResiduePath) -> ResiduePath:
    """The same path with parameters of its own."""
    if isinstance(path, PooledPath):
        return PooledPath(
            path.modality, copy.deepcopy(path.encoder), copy.deepcopy(path.members), path.features, path.columns
        )
    assert isinstance(path, SequencePath), path.model  # noqa: S101
    return SequencePath(path.model, copy.deepcopy(path.members), path.sequence, path.columns)


def _network(member: object) -> Any:
    return member.network  # type: ignore[attr-defined]


def _rise(before: np.ndarray, after: np.ndarray) -> float:
    one, other = complexity(before).effective_residues, complexity(after).effective_residues
    return (other - one) / one if one else 0.0


def _some(release: Release, count: int) -> list[tuple[str, str]]:
    """The test proteins with the best scores, each with its best specific term."""
    chooser = Chooser(release.run, release.model.calibration)
    return [(protein, chooser.best_terms(protein, 1)[0]) for protein in chooser.best_proteins((), count)]


def _labels(material: Material) -> tuple[list[Row], list[Check]]:
    found = [(r, material.permuted[r.name]) for r in material.planted if r.name in material.permuted]
    if not found:
        return [], [Check("label randomisation", None, "no run with permuted labels was given", f"within {LIMIT}")]
    rho: list[float] = []
    true_precision, permuted_precision = [], []
    for true, permuted in found:
        for (protein, term), is_site in pairs(true, material.at_most(PROTEINS)).items():
            if term not in permuted.run.stacker_terms:
                continue
            own, other = (ranked(path_of(r, "cnn", protein, [term]), "occlusion")[0] for r in (true, permuted))
            rho.append(correlation(own, other))
            true_precision.append(average_precision(own, is_site))
            permuted_precision.append(average_precision(other, is_site))
    mean, low, high = mean_interval(rho)
    kept, lost = float(np.mean(true_precision)), float(np.mean(permuted_precision))
    row = {"model": "cnn", "method": "occlusion", "shuffled to": "labels", "rho": mean, "low": low, "high": high,
           "n": len(rho), "AP true": kept, "AP permuted": lost}  # fmt: skip
    return [row], [
        Check("label randomisation, rho", max(abs(low), abs(high)) < LIMIT, f"{mean:+.3f} ({low:+.3f} to {high:+.3f})", f"within {LIMIT}"),
        Check("label randomisation, precision", lost < kept / 2, f"{lost:.3f} of {kept:.3f}", "below half"),
    ]  # fmt: skip
