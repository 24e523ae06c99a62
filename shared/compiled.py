"""Numba's nopython compiler with types kept, and machine code cached across processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def compiled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Compile at the first call. No fast-math: sums keep their order, so results are reproducible."""
    try:
        return cast(Callable[Parameters, Result], numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:
        # Neither the source folder nor the home folder is writable (a locked-down container).
        return cast(Callable[Parameters, Result], numba.njit(nogil=True)(function))
