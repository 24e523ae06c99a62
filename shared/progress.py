"""Progress with rate and ETA: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

PLAIN_INTERVAL_S = 5.0
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silence every progress bar of this process."""
    global _quiet  # noqa: PLW0603 - one switch for the process, set once by the command line
    _quiet = quiet


def is_quiet() -> bool:
    """Whether this process shows no progress."""
    return _quiet


@dataclass
class Progress:
    """Counts finished units; `advance` prints at most one plain line per interval."""

    what: str
    total: int
    unit: str
    done: int
    bar: tqdm | None  # type: ignore[type-arg]
    started: float = field(default_factory=time.monotonic)
    printed: float = field(default_factory=time.monotonic)
    start: int = 0

    def advance(self, count: int = 1) -> None:
        """Say that `count` more units are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        else:
            self.show()

    def show(self) -> None:
        """Say that work goes on, though no unit is done: a plain line where none was printed for a while."""
        if self.bar is not None:
            self.bar.refresh()
        elif time.monotonic() - self.printed >= PLAIN_INTERVAL_S and not _quiet:
            self.printed = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """`what: done/total (percent), rate, ETA` as plain text."""
        elapsed = time.monotonic() - self.started
        rate = (self.done - self.start) / elapsed if elapsed > 0 else 0.0
        eta = f"{(self.total - self.done) / rate:.0f} s left" if rate > 0 else "no estimate yet"
        share = 100 * self.done / self.total if self.total else 100.0
        return f"{self.what}: {self.done}/{self.total} {self.unit} ({share:.0f} %), {rate:.1f} {self.unit}/s, {eta}"


@contextlib.contextmanager
def progress(what: str, total: int, unit: str = "it", done: int = 0) -> Iterator[Progress]:
    """Show progress over `total` units, `done` of which were finished before (after a resume)."""
    terminal = sys.stderr.isatty() and not _quiet and "NO_PROGRESS" not in os.environ
    bar = tqdm(total=total, initial=done, desc=what, unit=unit, leave=False, dynamic_ncols=True) if terminal else None
    state = Progress(what, total, unit, done, bar, start=done)
    try:
        yield state
    finally:
        if bar is not None:
            bar.close()
