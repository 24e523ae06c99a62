"""The conformance suite on all five backends; remote ones carry the marker `stores` (`make test-stores`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from contracts.store_contract import StoreContract
from fakes.backends import Backend, HubBackend, KaggleBackend, LocalBackend, MemoryBackend, S3Backend
from fakes.faulty import Clock


class TestLocal(StoreContract):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], Backend]:
        numbers = itertools.count()
        return lambda: LocalBackend(tmp_path / f"store{next(numbers)}")

    @pytest.fixture
    def backend(self, make_backend: Callable[[], Backend]) -> Backend:
        return make_backend()


class TestMemory(StoreContract):
    @pytest.fixture
    def make_backend(self) -> Callable[[], Backend]:
        return MemoryBackend

    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend()


@pytest.mark.stores
class TestKaggle(StoreContract):
    @pytest.fixture
    def make_backend(self, kaggle_stub) -> Callable[[], Backend]:
        return lambda: KaggleBackend(kaggle_stub)

    @pytest.fixture
    def backend(self, kaggle_stub) -> Backend:
        return KaggleBackend(kaggle_stub)

    def steps(self, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
        """Every HTTP request is a step before and after, too."""
        from shared.stores.kaggle_client import Session

        super().steps(monkeypatch, clock)
        original = Session.send

        def send(session, request, **options):
            clock.tick()
            answer = original(session, request, **options)
            clock.tick()
            return answer

        monkeypatch.setattr(Session, "send", send)


@pytest.mark.stores
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # the client's own, to its HTTP library
class TestHub(StoreContract):
    @pytest.fixture
    def make_backend(self, hub_stub) -> Callable[[], Backend]:
        return lambda: HubBackend(hub_stub)

    @pytest.fixture
    def backend(self, hub_stub) -> Backend:
        return HubBackend(hub_stub)


@pytest.mark.stores
class TestS3(StoreContract):
    @pytest.fixture
    def make_backend(self, s3_stub) -> Callable[[], Backend]:
        return lambda: S3Backend(s3_stub)

    @pytest.fixture
    def backend(self, s3_stub) -> Backend:
        return S3Backend(s3_stub)
