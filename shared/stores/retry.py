"""One retry policy for every backend: what the remote asks for, else exponential waits with jitter."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from shared.stores.base import Transient

T = TypeVar("T")


def _say(details: RetryDetails) -> None:
    """Tell a person why it takes longer."""
    print(f"trying again in {details.wait_for:.1f} s: {details.caused_by}", file=sys.stderr, flush=True)


set_on_retry_hooks([_say])
MAX_RETRY_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store goes on.

    `attempts` per request; `wait_s` before the second one, doubled each time up to `wait_max_s`;
    `deadline_s` for a version to become readable; `settle_s` before a commit whose answer was lost, and
    of which nothing is seen, is sent again.
    """

    attempts: int = 8
    wait_s: float = 0.5
    wait_max_s: float = 30.0
    deadline_s: float = 1800.0
    settle_s: float = 60.0
    poll: tuple[float, float] = field(default=(0.5, 30.0))  # first and longest pause between two looks, seconds

    def call(self, function: Callable[[], T]) -> T:
        """Call until it does not raise `Transient`, or patience ends; the last error is raised.

        The function must be safe to repeat.
        """
        for attempt in stamina.retry_context(
            on=self._pause,
            attempts=self.attempts,
            timeout=self.deadline_s,
            wait_initial=self.wait_s,
            wait_max=self.wait_max_s,
            wait_jitter=self.wait_s,
        ):
            with attempt:
                return function()
        raise AssertionError("stamina raises when patience ends")

    def waits(self) -> list[float]:
        """Seconds before each further attempt."""
        return [min(self.wait_max_s, self.wait_s * 2**attempt) for attempt in range(self.attempts - 1)]

    def pauses(self) -> list[float]:
        """Seconds to sleep between looks until the deadline: short at first, then longer."""
        pauses: list[float] = []
        pause, longest = self.poll
        while sum(pauses) < self.deadline_s:
            pauses.append(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads writers, protects nothing
            pause = min(longest, pause * 1.5)
        return pauses

    @staticmethod
    def _pause(error: Exception) -> bool | float:
        if not isinstance(error, Transient):
            return False
        return True if error.retry_after is None else min(error.retry_after, MAX_RETRY_AFTER_S)
