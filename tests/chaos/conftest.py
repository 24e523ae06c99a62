"""The figures that the last line of the output states."""

from __future__ import annotations

from collections import Counter

import pytest

FIGURES: dict[str, Counter[str]] = {}
ORDER = ("kills", "acknowledged", "lost", "published twice")


def count(database: str, **figures: int) -> None:
    """Add to the figures of a database."""
    into = FIGURES.setdefault(database, Counter())
    into.update({name.replace("_", " "): figure for name, figure in figures.items()})


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line, after pytest's own."""
    if FIGURES:
        parts = [
            f"{database}: " + ", ".join(f"{name} {figures[name]}" for name in ORDER)
            for database, figures in sorted(FIGURES.items())
        ]
        print("chaos " + "; ".join(parts))
