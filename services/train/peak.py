"""The most memory that this process held since the last look; what `plan` scales."""

from __future__ import annotations

from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak() -> bool:
    """Forget the peak so far; False where the system does not let a process do so."""
    try:
        RESET.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """Peak resident set since `reset_peak`, child processes left out; None where the system does not say."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError):
        return None
    return None
