"""Training and scoring of the multi-label heads beside a plain float32 loop over the same network and batches.

`python -m benchmarks.rows.mlp FOLDER` is what a run prints of itself: the MB that a fit on the folder's features takes
beyond what files back, for the memory gate.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.gates import Gate
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
FEW, MANY, EACH = 4000, 24_000, 38
# Labels and the order of rows take about 1 KB per protein; the features as float32 would be 9.
GROWTH_MB = 60.0
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
        context = make_context(Path(name), epochs=2)
        held = np.arange(FIT, FIT + HELD)

        def ours() -> Result:
            return MlpFitter().fit(data, np.arange(FIT), context).logits(data.features, held)

        growth = grown_mb(Path(name))
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
            also=(Gate("memory", growth <= GROWTH_MB, f"{growth:+.0f} MB from {FEW} to {MANY} proteins"),),
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
    return training_data(dense, labels)


def make_context(folder: Path, epochs: int) -> FitContext:
    """What both sides and the memory's runs are fitted with."""
    config = Level1Config.model_validate(
        {
            "mlp": {"hidden": HIDDEN, "epochs": epochs, "batch_size": BATCH},
            "training": {"precision": "auto", "schedule": "constant", "warmup": 0, "clip_norm": 0},
            "min_positives": 1,
        }
    )
    return FitContext(config, TransformConfig(), "cpu", 1, folder, Logger(None, quiet=True))


def training_data(dense: dict[str, Any], labels: sparse.csr_array) -> TrainingData:
    """Every protein is annotated in every aspect."""
    count = labels.shape[0]
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


def grown_mb(folder: Path) -> float:
    """How much more a fit holds on MANY proteins than on FEW, each in a process of its own."""
    held = []
    for count in (FEW, MANY):
        place = folder / str(count)
        place.mkdir()
        rng = np.random.default_rng(count)
        for modality, dim in DIMS.items():
            array = np.lib.format.open_memmap(place / f"{modality}.npy", "w+", np.float16, (count, dim))
            for start in range(0, count, FEW):
                array[start : start + FEW] = rng.standard_normal((FEW, dim), np.float32)
        columns = rng.integers(0, TERMS, count * EACH)
        rows = np.repeat(np.arange(count), EACH)
        sparse.save_npz(
            place / "labels.npz",
            sparse.coo_array((np.ones(len(rows), np.float32), (rows, columns)), (count, TERMS)).tocsr(),
        )
        command = [sys.executable, "-m", __name__, str(place)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        held.append(float(done.stdout.split()[-1]))
    return held[1] - held[0]


def fit_mb(folder: Path) -> float:
    """Most memory that no file backs, in MB, while an epoch is fitted."""
    dense = {modality: np.load(folder / f"{modality}.npy", mmap_mode="r") for modality in DIMS}
    labels = sparse.csr_array(sparse.load_npz(folder / "labels.npz"))
    data = training_data(dense, labels)
    most, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            most[0] = max(most[0], *(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    MlpFitter().fit(data, np.arange(labels.shape[0]), make_context(folder, epochs=1))
    done.set()
    watcher.join()
    return most[0]


if __name__ == "__main__":
    print(fit_mb(Path(sys.argv[1])))
