"""The most memory that this process held since the last look; what `plan` scales."""

from __future__ import annotations

import contextlib
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Forget the peak so far, where the system lets a process do so."""
    with contextlib.suppress(OSError):
        RESET.write_text("5")  # proc(5): resets the peak resident set size


def peak_bytes() -> int | None:
    """Peak resident set since `reset_peak`, child processes left out; None where the system does not say."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError):
        return None
    return None
