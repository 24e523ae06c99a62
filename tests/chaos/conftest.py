"""A finished run for those who need one, and the figures that the last line of the output states."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from pipeline_runs import run, train_command

FIGURES: dict[str, Counter[str]] = {}
ORDER = ("kills", "acknowledged", "lost", "published twice")


@pytest.fixture(scope="session")
def smoke_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The out folder of a finished smoke run; GOWHY_CHAOS_RUN names one that is there already."""
    folder = tmp_path_factory.mktemp("smoke") / "out"
    if given := os.environ.get("GOWHY_CHAOS_RUN"):
        shutil.copytree(given, folder, symlinks=True)
    else:
        made = run(train_command(folder, "--quiet"))
        assert made.returncode == 0, made.stderr[-3000:]
    return folder


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
