"""Threads inside a block, and as they were after it."""

import pytest
import torch

from shared.nn.runtime import torch_threads


def test_threads_are_as_before_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert torch.get_num_threads() == before
