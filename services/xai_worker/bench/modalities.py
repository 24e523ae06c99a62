"""Shapley shares where the truth is known: models trained on labels that one modality alone decides.

The label is a threshold on one direction of one modality's vectors (for the taxon: one of the taxa); the
other modalities are noise. That modality must have at least 0.9 of all absolute shares: of their sum over proteins, because a protein at the
threshold has, truly, little to explain.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from services.xai_worker.bench.base import BOOTSTRAP_DRAWS, SEED, Check, Figure, FloatArray, Material, Row, Section
from services.xai_worker.evidence.game import mixture
from services.xai_worker.evidence.shapley import shapley_values
from shared.models.feature_space import TAXON, FeatureSpace
from shared.models.features import Features
from shared.nn.heads import MlpModel, MlpNetwork, raw_blocks
from shared.progress import progress

PLAYERS = ("esm2", "t5", "text", TAXON)
DIMS = {"esm2": 32, "t5": 24, "text": 40}
TAXA = (9606, 10090, 559292, 83333)
TRAIN, EXPLAINED, BACKGROUND, SEEDS = 4000, 40, 32, 3
EPOCHS, WEIGHT_DECAY = 60, 0.1
LIMIT = 0.9


def measure(material: Material) -> Section:
    """Share of |phi| that goes to the modality that carries the label."""
    rows: list[Row] = []
    checks = []
    seeds = material.at_most(SEEDS)
    with progress("planted modalities", len(PLAYERS) * seeds, "model") as bar:
        for carrier in PLAYERS:
            sizes, accuracies = [], []
            for seed in range(seeds):
                phi, accuracy = explained(carrier, seed)
                sizes.append(np.abs(phi))
                accuracies.append(accuracy)
                bar.advance(1)
            size = np.concatenate(sizes, axis=1)
            mean, low, high = ratio_interval(size[PLAYERS.index(carrier)], size.sum(axis=0))
            rows.append(
                {
                    "carrier": carrier,
                    "share": mean,
                    "low": low,
                    "high": high,
                    "accuracy": float(np.mean(accuracies)),
                    "n": size.shape[1],
                }
            )
            checks.append(Check(f"planted modality, {carrier}", mean >= LIMIT, f"{mean:.3f}", f">= {LIMIT}"))
    text = "Share of the absolute Shapley values that goes to the modality which alone decides the label; even shares are 0.25."
    bars = {"share": [(str(row["carrier"]), row["share"]) for row in rows]}
    return Section(
        "Planted modality",
        text,
        rows,
        checks,
        [Figure("modalities", "Planted modality", "", "share", bars, kind="bars")],
    )


def ratio_interval(part: FloatArray, whole: FloatArray) -> tuple[float, float, float]:
    """sum(part) / sum(whole) and its 95 % bootstrap interval over proteins."""
    draws = np.random.default_rng(SEED).integers(0, len(part), (BOOTSTRAP_DRAWS, len(part)))
    low, high = np.quantile(part[draws].sum(axis=1) / whole[draws].sum(axis=1), [0.025, 0.975])
    return float(part.sum() / whole.sum()), float(low), float(high)


def explained(carrier: str, seed: int) -> tuple[FloatArray, float]:
    """Shapley values [player, protein] of a fitted model, and its accuracy on those proteins."""
    rng = np.random.default_rng([SEED, seed, PLAYERS.index(carrier)])
    features, labels = proteins(carrier, rng)
    model = fitted(features, labels, seed)
    rows = np.arange(TRAIN, TRAIN + EXPLAINED)
    background = [_row(features, row) for row in rng.choice(TRAIN, BACKGROUND, replace=False).tolist()]
    found = []
    for row in rows.tolist():
        mixed = mixture(PLAYERS, _row(features, row), background)
        values = model.logits(mixed, np.arange(len(mixed)))[:, 0].astype(np.float64).reshape(1 << len(PLAYERS), -1)
        found.append(shapley_values(values.mean(axis=1), len(PLAYERS)))
    accuracy = float(((model.logits(features, rows)[:, 0] > 0) == labels[rows]).mean())
    return np.stack(found, axis=1), accuracy


def proteins(carrier: str, rng: np.random.Generator) -> tuple[Features, np.ndarray]:
    """Random proteins, and a label that only the carrier decides."""
    count = TRAIN + EXPLAINED
    dense = {name: rng.normal(size=(count, dim)).astype(np.float32) for name, dim in DIMS.items()}
    taxa = rng.choice(TAXA, count).astype(np.int64)
    labels = np.isin(taxa, TAXA[:2]) if carrier == TAXON else dense[carrier] @ rng.normal(size=DIMS[carrier]) > 0
    ids = [f"P{i}" for i in range(count)]
    return Features(ids, ["M"] * count, dense, taxa, None), labels


def fitted(features: Features, labels: np.ndarray, seed: int) -> MlpModel:
    """The pipeline's own MLP on one term, fitted with decay so that noise modalities are let go."""
    rows = np.arange(TRAIN)
    space = FeatureSpace.fit(features, rows, version="v1", normalize=True, min_taxon_proteins=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MlpNetwork(space, ["MF"], hidden=32, dropout=0.0)
        blocks = raw_blocks(space, features, rows, "cpu")
        targets = torch.from_numpy(labels[:TRAIN].astype(np.float32))[:, None]
        optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=WEIGHT_DECAY)
        for batch in _batches(seed):
            optimiser.zero_grad()
            part = {name: block[batch] for name, block in blocks.items()}
            functional.binary_cross_entropy_with_logits(network(part), targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return MlpModel(network.eval(), space, ("GO:1",))


def _batches(seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        yield from torch.randperm(TRAIN, generator=generator).split(256)  # type: ignore[no-untyped-call]


def _row(features: Features, row: int) -> Features:
    part = slice(row, row + 1)
    dense = {name: array[part] for name, array in features.dense.items()}
    return Features([features.ids[row]], [features.sequences[row]], dense, features.taxa[part], None)
