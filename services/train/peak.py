"""Memory of this process, and of the machine."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

STATUS, RESET, MACHINE = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")
CONTAINER = Path("/sys/fs/cgroup")  # of control groups, version 2


def reset_peak() -> bool:
    """Forget the peak so far; False where the system does not let a process do so."""
    try:
        RESET.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True


def give_back() -> None:
    """Return freed memory to the system, which the C library would keep: a stage begins with what it needs itself."""
    gc.collect()
    with suppress(AttributeError, OSError):  # GNU's library alone has it
        ctypes.CDLL(None).malloc_trim(0)


def peak_bytes() -> int | None:
    """Peak resident set since `reset_peak`, child processes left out; None where the system does not say."""
    return _value(STATUS, "VmHWM:")


def resident_bytes() -> int | None:
    """Resident set now; None where the system does not say."""
    return _value(STATUS, "VmRSS:")


def available_bytes() -> int | None:
    """What the machine, or the container, has free for more processes; None where the system does not say."""
    free = _value(MACHINE, "MemAvailable:")
    try:
        left = int((CONTAINER / "memory.max").read_text()) - int((CONTAINER / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or no limit: "max"
        return free
    return left if free is None else max(0, min(free, left))


def _value(file: Path, name: str) -> int | None:
    try:
        for line in file.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) << 10  # proc(5): kB
    except (OSError, ValueError):
        return None
    return None
