"""The training loop: repeatable, without side effects, and what the policy says."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from services.train.models import training
from services.train.models.training import EpochRecord, build, learning_rate_factor, optimiser_groups, shuffled, train
from services.train.team import ALONE, Team
from shared.config.training import TrainingConfig
from shared.errors import GowhyError
from shared.logs import Logger

ROWS = np.arange(40)
INPUTS = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
TARGETS = INPUTS @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [3.0]]) + 1.0
PLAIN = TrainingConfig(
    precision="float32", optimiser="sgd", weight_decay=0.0, clip_norm=0.0, schedule="constant", warmup=0.0
)


@dataclass(frozen=True)
class Context:
    log: Logger
    device: str = "cpu"
    threads: int = 1
    stage: str = "stage"
    fold: int = 2
    team: Team = ALONE


QUIET = Context(Logger(None, quiet=True))


def network(dropout: float = 0.0) -> nn.Module:
    return build(
        lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)), seed=4, device="cpu"
    )


def fit(
    module: nn.Module, policy: TrainingConfig = PLAIN, context: Context = QUIET, epochs: int = 3, **options
) -> list[EpochRecord]:
    def loss(rows: np.ndarray) -> torch.Tensor:
        return nn.functional.mse_loss(module(INPUTS[rows]), TARGETS[rows])

    given = {"batch_size": 8, "learning_rate": 0.02, "seed": 1, "model": "toy"} | options
    return train(module, loss, ROWS, policy=policy, epochs=epochs, context=context, **given)


def weights(module: nn.Module) -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for parameter in module.parameters()]


def test_the_loss_falls() -> None:
    records = fit(network(), epochs=10, validation_rows=np.arange(40, 60))
    assert records[-1].train < 0.2 * records[0].train
    assert records[-1].validation < 0.5 * records[0].validation


def test_two_fits_are_bit_identical_whatever_the_global_generators_hold() -> None:
    fitted = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        module = network(dropout=0.5)
        fit(module, TrainingConfig())
        fitted.append(weights(module))
    assert all(np.array_equal(a, b) for a, b in zip(*fitted, strict=True))


def test_the_global_generators_and_thread_count_are_left_alone() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    fit(network(dropout=0.5), context=Context(Logger(None, quiet=True), threads=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_watched_rows_do_not_change_the_fit() -> None:
    plain, watched = network(dropout=0.5), network(dropout=0.5)
    fit(plain)
    fit(watched, validation_rows=np.arange(40, 60))
    # Dropout draws nothing while the module is in evaluation mode.
    assert all(np.array_equal(a, b) for a, b in zip(weights(plain), weights(watched), strict=True))


def test_accumulation_makes_small_batches_one_large_step() -> None:
    large, small = network(), network()
    fit(large, batch_size=16)
    fit(small, PLAIN.model_copy(update={"accumulate": 4}), batch_size=4)
    for a, b in zip(weights(large), weights(small), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_clipping_limits_a_step() -> None:
    module = network()
    before = weights(module)
    fit(module, PLAIN.model_copy(update={"clip_norm": 0.01}), epochs=1, batch_size=40, learning_rate=1.0)
    moved = np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(before, weights(module), strict=True)))
    # Nesterov's first step is (1 + momentum) times the gradient.
    assert moved == pytest.approx(0.019, rel=1e-3)


def test_weight_decay_is_for_matrices_only() -> None:
    module = nn.ModuleList([nn.Linear(3, 2), nn.Embedding(4, 3), nn.LayerNorm(3), nn.Conv1d(2, 2, 3)])
    decayed, kept = optimiser_groups(module, 0.1)
    assert {tuple(p.shape) for p in decayed["params"]} == {(2, 3), (2, 2, 3)}
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(kept["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_learning_rate_warms_up_and_follows_the_schedule(schedule: str) -> None:
    policy = TrainingConfig(schedule=schedule, warmup=0.1)
    factors = [learning_rate_factor(policy, step, 100) for step in range(100)]
    assert 0 < factors[0] < factors[5] < factors[10] == 1.0
    assert factors[-1] == (1.0 if schedule == "constant" else pytest.approx(0.0, abs=1e-3))


def test_every_epoch_has_another_order_of_the_same_rows() -> None:
    generator = np.random.default_rng(0)
    first, second = shuffled(ROWS, generator), shuffled(ROWS, generator)
    assert sorted(first) == sorted(second) == ROWS.tolist()
    assert first.tolist() != second.tolist()


def test_an_order_may_leave_rows_out() -> None:
    records = fit(network(), order=lambda rows, generator: generator.permutation(rows)[:5])
    assert len(records) == 3


def test_bfloat16_learns_too() -> None:
    records = fit(network(), PLAIN.model_copy(update={"precision": "bfloat16"}), epochs=10)
    assert records[-1].train < 0.3 * records[0].train


def test_losses_and_the_callbacks_metrics_are_logged(tmp_path: Path) -> None:
    seen: list[bool] = []

    def after_epoch(epoch: int, module: nn.Module) -> dict[str, float | None]:
        seen.append(module.training or torch.is_grad_enabled())
        return {"fmax_w/BP": epoch / 10}

    fit(network(), context=Context(Logger(tmp_path, quiet=True)), epochs=2, after_epoch=after_epoch)
    with (tmp_path / "epochs.csv").open() as file:
        lines = [(row["model"], row["fold"], row["epoch"], row["key"]) for row in csv.DictReader(file)]
    assert lines == [("toy", "2", epoch, key) for epoch in "01" for key in ("loss/train", "loss/val", "fmax_w/BP")]
    assert seen == [False, False]


def test_a_loss_that_is_not_finite_says_where() -> None:
    with pytest.raises(GowhyError, match="toy, epoch 0"):
        fit(network(), learning_rate=1e30)


def test_no_rows_are_refused() -> None:
    module = network()
    with pytest.raises(GowhyError, match="no rows"):
        train(
            module,
            lambda rows: torch.zeros(()),
            ROWS[:0],
            policy=PLAIN,
            epochs=1,
            batch_size=4,
            learning_rate=0.1,
            seed=0,
            context=QUIET,
            model="toy",
        )


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_the_hardware_multiplies_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "multiplies_bfloat16", lambda device: native)
    losses = {
        precision: [record.train for record in fit(network(), PLAIN.model_copy(update={"precision": precision}))]
        for precision in ("auto", "bfloat16", "float32")
    }
    assert losses["bfloat16"] != losses["float32"]
    assert losses["auto"] == losses["bfloat16" if native else "float32"]
