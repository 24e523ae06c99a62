"""When a failed attempt is tried again: exponential back-off with full jitter."""

from __future__ import annotations

import random

_RANDOM = random.SystemRandom()


def delay_s(failures: int, *, base_s: float, cap_s: float) -> float:
    """A random wait in [0, min(cap, base * 2^(failures - 1))], so that jobs that failed together part.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return _RANDOM.uniform(0.0, min(cap_s, base_s * 2.0 ** (failures - 1)))
