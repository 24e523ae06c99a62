"""Training and scoring of the multi-label heads beside a plain float32 loop over the same network and batches."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers.contest import Result, interleave, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as line
from services.train.models.base import FitContext, TrainingData
from services.train.models.mlp import MlpFitter
from shared.config import Level1Config, TransformConfig
from shared.logs import Logger
from shared.models.feature_space import FeatureSpace
from shared.models.features import Features
from shared.nn.heads import MlpNetwork

FIT, HELD, TERMS, HIDDEN, BATCH = 4000, 1000, 3000, 512, 256
DIMS = {"esm2": 1280, "t5": 1024}
OURS, THEIRS = "gowhy bf16", "plain PyTorch float32"
NOISE = 0.02  # relative difference of the held-out loss; other seeds differ as much


class Items(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Dense rows, one at a time, as such loops usually read them."""

    def __init__(self, inputs: Result, targets: Result) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(self.inputs[row]), torch.from_numpy(self.targets[row])


def compare(rounds: int) -> list[Comparison]:
    """Two epochs and the scores of held-out proteins; the held-out losses are compared."""
    with tempfile.TemporaryDirectory(prefix="gowhy-bench-") as name:
        data = make_data(Path(name))
        config = Level1Config.model_validate(
            {
                "mlp": {"hidden": HIDDEN, "epochs": 2, "batch_size": BATCH},
                "training": {"precision": "bfloat16", "schedule": "constant", "warmup": 0, "clip_norm": 0},
                "min_positives": 1,
            }
        )
        context = FitContext(config, TransformConfig(), "cpu", 1, Path(name), Logger(None, quiet=True))
        held = np.arange(FIT, FIT + HELD)

        def ours() -> Result:
            return MlpFitter().fit(data, np.arange(FIT), context).logits(data.features, held)

        contest = interleave({THEIRS: timed(lambda: plain(data, context)), OURS: timed(ours)}, rounds)
        truth = data.labels[held].toarray()
    losses = {way: held_out_loss(contest.results[way], truth) for way in (OURS, THEIRS)}
    return [
        line(
            contest,
            OURS,
            THEIRS,
            name="mlp heads, training and scoring",
            sizes=f"{FIT} + {HELD} x {sum(DIMS.values())}, {TERMS} terms, batch {BATCH}",
            least=1.7,
            difference=max(0.0, losses[OURS] / losses[THEIRS] - 1),
            tolerance=NOISE,
            measure="relative excess of the held-out loss",
        )
    ]


def make_data(folder: Path) -> TrainingData:
    """Memory-mapped float16 features whose labels follow from hidden factors; every protein is annotated."""
    rng = np.random.default_rng(0)
    count = FIT + HELD
    factors = rng.standard_normal((count, 24), np.float32)
    dense: dict[str, Any] = {}
    for modality, dim in DIMS.items():
        array = factors @ rng.standard_normal((24, dim), np.float32) + rng.standard_normal((count, dim), np.float32)
        np.save(folder / f"{modality}.npy", array.astype(np.float16))
        dense[modality] = np.load(folder / f"{modality}.npy", mmap_mode="r")
    logits = (
        factors @ rng.standard_normal((24, TERMS), np.float32) / 2 - 5 + rng.standard_normal(TERMS).astype(np.float32)
    )
    labels = sparse.csr_array((rng.random((count, TERMS), np.float32) < 1 / (1 + np.exp(-logits))).astype(np.float32))
    none = np.zeros(count, np.int64)
    ids = [f"P{row:06d}" for row in range(count)]
    return TrainingData(
        features=Features(ids, [""] * count, dense, none, None),
        terms=tuple(f"GO:{term:07d}" for term in range(TERMS)),
        aspects=(np.arange(TERMS) % 3).astype(np.int8),
        labels=labels,
        annotated=np.ones((count, 3), np.bool_),
        folds=none,
        clusters=np.arange(count),
        ontology=cast(Any, None),  # the fit never asks for it
        information=np.ones(TERMS, np.float32),
    )


def plain(data: TrainingData, context: FitContext) -> Result:
    """The same network in the usual loop: a DataLoader of dense float32 rows, BCEWithLogitsLoss, AdamW."""
    options = context.config.mlp
    space = FeatureSpace.fit(
        data.features,
        np.arange(FIT),
        version=context.transform.version,
        normalize=context.transform.normalize,
        min_taxon_proteins=10**9,
    )
    inputs = np.concatenate([np.asarray(data.features.dense[name], np.float32) for name in DIMS], axis=1)
    targets = data.labels.toarray()
    torch.manual_seed(0)
    network = MlpNetwork(space, [("MF", "BP", "CC")[aspect] for aspect in data.aspects], HIDDEN, options.dropout)
    share = targets[:FIT].mean(0).clip(1e-4, 1 - 1e-4)
    network.heads.set_bias(np.log(share / (1 - share)).astype(np.float32))
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate)
    criterion = nn.BCEWithLogitsLoss()

    def forward(batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(dict(zip(DIMS, torch.split(batch, list(DIMS.values()), dim=1), strict=True)))
        return logits

    for _ in range(options.epochs):
        for batch, target in DataLoader(Items(inputs[:FIT], targets[:FIT]), batch_size=BATCH, shuffle=True):
            optimiser.zero_grad()
            criterion(forward(batch), target).backward()
            optimiser.step()
    network.eval()
    with torch.no_grad():
        found = [forward(batch) for batch, _ in DataLoader(Items(inputs[FIT:], targets[FIT:]), batch_size=BATCH)]
    return torch.cat(found).numpy()


def held_out_loss(logits: Result, truth: Result) -> float:
    """Mean binary cross-entropy."""
    return float((np.logaddexp(0, logits.astype(np.float64)) - truth * logits).mean())
