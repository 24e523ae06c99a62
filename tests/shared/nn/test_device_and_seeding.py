from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest
import torch

from shared.errors import MissingInput
from shared.nn.device import resolve_device
from shared.nn.seeding import CUBLAS_WORKSPACE, determinism_record, make_deterministic, seed_everything


@pytest.fixture(autouse=True)
def flags(monkeypatch):
    """Give the process its flags back."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_a_seed_repeats_every_generator() -> None:
    seed_everything(7, threads=1)
    first = draws()
    assert draws() != first
    seed_everything(7, threads=1)
    assert draws() == first
    seed_everything(2**40 + 7, threads=1)
    assert draws() != first


def test_the_record_says_what_was_set() -> None:
    record = make_deterministic(2)
    assert record == determinism_record() == json.loads(json.dumps(record))
    assert record["threads"] == torch.get_num_threads() == 2
    assert record["deterministic_algorithms"] is True
    assert record["tf32"] is False
    assert record["cublas_workspace"] == CUBLAS_WORKSPACE
    assert seed_everything(3, threads=1)["seed"] == 3


@pytest.mark.parametrize(
    ("count", "device", "expected"),
    [(0, "auto", "cpu"), (2, "auto", "cuda:0"), (2, "cuda", "cuda:0"), (2, "cuda:1", "cuda:1"), (2, "cpu", "cpu")],
)
def test_devices(monkeypatch, count: int, device: str, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert resolve_device(device) == torch.device(expected)


@pytest.mark.parametrize(("count", "device"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1")])
def test_an_absent_gpu_is_named_with_a_remedy(monkeypatch, count: int, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(MissingInput, match=rf"no device {device}.*device=cpu"):
        resolve_device(device)
