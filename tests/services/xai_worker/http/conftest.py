"""The application over a queue in memory and a run on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from services.xai_worker.app import create_app
from services.xai_worker.http.tokens import SCOPES, Token, Tokens, new_token
from services.xai_worker.http_settings import HttpSettings
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun

LAB, OTHER, LOOKER, CHIEF = "lab", "other", "looker", "chief"


class Keys:
    """A token for each of several people, and the headers that send it."""

    def __init__(self) -> None:
        user = ("submit", "read", "cancel")
        made = {
            LAB: new_token(LAB, user, None),
            OTHER: new_token(OTHER, user, None),
            LOOKER: new_token(LOOKER, ("read",), None),
            CHIEF: new_token(CHIEF, SCOPES, None),
        }
        self.plain = {name: plain for name, (plain, _) in made.items()}
        self.known: list[Token] = [token for _, token in made.values()]

    def headers(self, name: str = LAB, **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.plain[name]}", **more}


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def run(tmp_path: Path) -> PublishedRun:
    return PublishedRun(tmp_path / "out")


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue(bound=5, owner_bound=50)


@pytest.fixture
def settings(run: PublishedRun) -> HttpSettings:
    return HttpSettings(out=run.out, stream_poll_s=0.01, stream_s=5, max_body_bytes=64 << 10, body_timeout_s=2)


@pytest.fixture
def app(queue: MemoryQueue, settings: HttpSettings, keys: Keys) -> FastAPI:
    return create_app(queue, settings, Tokens(keys.known))


@pytest.fixture
def client(app: FastAPI, keys: Keys) -> Iterator[TestClient]:
    """Sends the lab's token with every request."""
    with TestClient(app, headers=keys.headers()) as made:
        yield made


@pytest.fixture
def app_with(queue: MemoryQueue, settings: HttpSettings, keys: Keys) -> Callable[..., TestClient]:
    """A client of an application with other settings."""

    def make(**changes: object) -> TestClient:
        changed = HttpSettings.model_validate({**settings.model_dump(), **changes})
        return TestClient(create_app(queue, changed, Tokens(keys.known)), headers=keys.headers())

    return make
