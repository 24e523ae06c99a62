"""The processes that make one fit together, as a fit sees them: here this one alone.

Of several processes (`services.train.processes`) the one with rank 0 leads: it alone holds the run folder, runs the
stages and writes. The others follow: they wait until the leader calls them into a fit, make the same fit from the same
files, take their share of every step's batches, and keep nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Team:
    """One process, which has nothing to ask and nobody to tell; the base of several.

    Every process of a team calls the methods in the same order, or they wait for each other in vain; `call`, `heard`
    and `dismiss` belong together: what the leader says is what a follower hears.
    """

    rank: int = 0
    size: int = 1
    local: int = 0  # number of this process on its machine

    @property
    def leads(self) -> bool:
        """Whether this process runs the stages and writes."""
        return self.rank == 0

    def has(self, batch: int) -> bool:
        """Whether a batch, by its number within the step, is this process's."""
        return batch % self.size == self.rank

    def sum(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Add up each process's values; exact where all but one are 0."""
        return values

    def sum_gradients(self, module: nn.Module) -> None:
        """Give every process the sum of all processes' gradients."""

    def same_start(self, module: nn.Module) -> None:
        """Give every process the leader's weights."""

    def check_same_end(self, module: nn.Module, model: str) -> None:
        """Hold the weights of all processes to be equal, bit by bit.

        Raises:
            IntegrityError: they are not.
        """

    def call(self, stage: str, job: str) -> None:
        """The leader asks the others into a fit; `Stage.join` knows what `job` means."""

    def heard(self) -> tuple[str, str] | None:
        """A follower waits for the leader's next call: stage and job, or None when there is no more."""
        return None

    def dismiss(self) -> None:
        """The leader has no more calls."""


ALONE = Team()


def started_by_torchrun(environment: Mapping[str, str] = os.environ) -> int:
    """How many processes torchrun started this one among; 1 where it did not.

    Other programs set WORLD_SIZE too; only torchrun names its run.
    """
    return int(environment.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in environment else 1
