"""`python -m tests.fakes.team_fit OUT ACCUMULATE...`: small fits on as many processes as torchrun started.

The leader writes each fit's weights and losses to OUT (.npz) as `<accumulate>/<name>`. The network has dropout, a
buffer, and a part that only some batches use. `--end HOW:RANK` ends a process in the middle of one more fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from services.train.models.training import build, train
from services.train.processes import assembled
from services.train.team import Team
from shared.config.training import TrainingConfig
from shared.edge import Parser, main
from shared.errors import GowhyError
from shared.logs import Logger

PROTEINS, INPUTS, TERMS = 150, 24, 6


@dataclasses.dataclass(frozen=True)
class Context:
    team: Team
    log: Logger
    device: str = "cpu"
    threads: int = 1
    stage: str = "stage"
    fold: int = 0


class Network(nn.Module):
    """Two hidden layers; `rare` is used only by batches that hold protein 0."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(INPUTS, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 32), nn.Tanh())
        self.head, self.rare = nn.Linear(32, TERMS), nn.Linear(32, TERMS)
        self.register_buffer("mask", torch.ones(TERMS, dtype=torch.bool))

    def forward(self, inputs: torch.Tensor, rare: bool) -> torch.Tensor:
        hidden = self.body(inputs)
        return self.head(hidden) + (self.rare(hidden) if rare else 0.0)


def fit(team: Team, accumulate: int, end: str = "") -> dict[str, np.ndarray]:
    """Fit; weights by name, `losses` [epoch, train or validation]."""
    data = np.random.default_rng(1)
    inputs = torch.from_numpy(data.normal(size=(PROTEINS, INPUTS)).astype(np.float32))
    labels = torch.from_numpy((data.random((PROTEINS, TERMS)) < 0.3).astype(np.float32))
    # Initial weights of their own: the leader's must count.
    network = build(Network, seed=7 + team.rank, device="cpu")
    draws = np.random.default_rng(9)

    def loss_of_batch(rows: np.ndarray) -> torch.Tensor:
        noise = torch.from_numpy(draws.normal(size=(len(rows), INPUTS)).astype(np.float32)) if network.training else 0.0
        logits = network(inputs[rows] + 0.1 * noise, bool((rows == 0).any()))
        return nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])

    def after_epoch(epoch: int, module: nn.Module) -> dict[str, float | None]:
        if epoch == 1 and end == f"fail:{team.rank}":
            raise GowhyError("asked to fail")
        if epoch == 1 and end == f"kill:{team.rank}":
            os.kill(os.getpid(), signal.SIGKILL)
        if epoch == 1 and end == f"sleep:{team.rank}":
            print("asleep", flush=True)
            time.sleep(3600)
        if epoch == 1 and end == f"spoil:{team.rank}":
            module.get_parameter("head.bias").data[0] += 1e-6
        return {}

    records = train(
        network,
        loss_of_batch,
        np.arange(130),
        policy=TrainingConfig(accumulate=accumulate),
        epochs=3,
        batch_size=9,  # 15 batches, the last of 4: a step without a batch for some process
        learning_rate=0.02,
        seed=3,
        context=Context(team, Logger(None, quiet=True)),
        model="toy",
        validation_rows=np.arange(130, PROTEINS),
        draws=draws,
        after_epoch=after_epoch,
    )
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return {**weights, "losses": np.array([[record.train, record.validation] for record in records])}


def fits(team: Team, accumulates: list[int]) -> dict[str, np.ndarray]:
    """What the leader, or a process alone, does: a fit per value; `<accumulate>/<name>` -> array."""
    found = {}
    for accumulate in accumulates:
        team.call(str(accumulate), "")
        found |= {f"{accumulate}/{name}": array for name, array in fit(team, accumulate).items()}
    return found


def command(arguments: argparse.Namespace) -> int:
    with assembled("cpu", math.gcd(*arguments.accumulate)) as (team, _):
        if not team.leads:
            while (call := team.heard()) is not None:
                fit(team, int(call[0]), call[1])
            return 0
        np.savez(arguments.out, **fits(team, arguments.accumulate))
        if arguments.end:
            team.call("2", arguments.end)
            fit(team, 2, arguments.end)
    return 0


if __name__ == "__main__":
    parser = Parser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("accumulate", type=int, nargs="+")
    parser.add_argument("--end", default="")
    parser.set_defaults(command=command)
    raise SystemExit(main(parser))
