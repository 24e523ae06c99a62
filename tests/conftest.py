"""Shared by all tests: where real data is, a Postgres where there is one, and one thread for repeatable sums."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.fakes.postgres_server import PostgresServer, missing

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# The first call of a compiled function, and a busy machine, take longer than any fixed deadline.
# The examples are the same every time, so that a change is blamed for its own failures; `search` looks for new ones.
settings.register_profile("gowhy", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gowhy"))

REPOSITORY = Path(__file__).resolve().parents[1]
# contracts/ and fakes/ are shared by the mirrored test folders.
sys.path.insert(0, str(REPOSITORY / "tests"))


@pytest.fixture(scope="session")
def gowhy_data() -> Path:
    """The folder with real data; the test skips where there is none."""
    folder = Path(os.environ.get("GOWHY_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "tiny").is_dir():
        pytest.skip(f"no real data in {folder}; set GOWHY_DATA")
    return folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server of this test session's own; the test skips where there is none."""
    if (why := missing()) is not None:
        pytest.skip(why)
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of database that the test runs on; it runs on each."""
    return str(request.param)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a database with the queue's tables: making them takes seconds, copying them does not."""
    from services.xai_worker.queue.opening import open_queue
    from services.xai_worker.settings import WorkerSettings

    open_queue(WorkerSettings(database_url=postgres_server.create("template_queue"))).close()
    return "template_queue"


@pytest.fixture
def database_url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of that kind without jobs."""
    if kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'queue.sqlite3'}"
        return
    template = request.getfixturevalue("postgres_template")
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"q{uuid.uuid4().hex}"
    yield server.create(name, template)
    server.drop(name)


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """One headless browser for all tests: a process can hold one Playwright only. WebGL is computed by the processor."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    names = ("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, names)), None), args=flags
        )
        yield started
        started.close()
