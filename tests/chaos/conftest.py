"""Databases to break, and the figures that the last line of the output states."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.postgres_server import PostgresServer, missing

FIGURES: dict[str, Counter[str]] = {}
ORDER = ("kills", "acknowledged", "lost", "published twice")


def count(database: str, **figures: int) -> None:
    """Add to the figures of a database."""
    into = FIGURES.setdefault(database, Counter())
    into.update({name.replace("_", " "): figure for name, figure in figures.items()})


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    if (why := missing()) is not None:
        pytest.skip(why)
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def database_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.create(f"q{uuid.uuid4().hex}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line, after pytest's own."""
    if FIGURES:
        parts = [
            f"{database}: " + ", ".join(f"{name} {figures[name]}" for name in ORDER)
            for database, figures in sorted(FIGURES.items())
        ]
        print("chaos " + "; ".join(parts))
