"""What the routes share; one object in the application's state, made by `create_app`."""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

import anyio
from anyio import CapacityLimiter
from fastapi import Depends, Path, Request

from services.xai_worker.http.auth import Caller
from services.xai_worker.http.metrics import HttpMetrics
from services.xai_worker.http.tickets import Tickets
from services.xai_worker.http.tokens import Tokens
from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.intake import Intake
from services.xai_worker.logs import note
from services.xai_worker.manifests import Runs
from services.xai_worker.queue.base import JobQueue, JobRecord, NoSuchJob, QueueFull
from services.xai_worker.volume import Volume

JOB_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
JobId = Annotated[str, Path(pattern=JOB_ID, description="as given in the answer to the submission")]


class Full:
    """That the queue was full a moment ago.

    Clients that ask again at once could keep the event loop from everybody else. So a refusal is answered only after a
    pause; as long as one is held back, and while one request looks again, the others are refused without asking the
    database. A client that is alone and asks again after its answer always looks itself.
    """

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self._until = 0.0
        self._known: tuple[int, int, int] | None = None
        self._looking = False

    def check(self) -> None:
        """Raise what the last look raised, if that was a moment ago or somebody looks again just now.

        Raises:
            QueueFull: as many jobs wait as may.
        """
        if self._known is not None and (self._looking or time.monotonic() < self._until):
            raise QueueFull(*self._known)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Around a look; one that finds room forgets."""
        self._looking = True
        before = self._until
        try:
            yield
        finally:
            self._looking = False
        if self._until == before:
            self._known = None

    def remember(self, error: QueueFull) -> None:
        """Note what a look found; at once, so that those who stand in line need not look."""
        self._known = (error.waiting, error.bound, error.retry_after_s)
        self._until = time.monotonic() + self.pause_s

    async def hold(self) -> None:
        """Let a refused client wait; not all the same time, else they all come back together."""
        await anyio.sleep(self.pause_s * random.uniform(1, 1.5))  # noqa: S311 - nothing secret


@dataclass
class Services:
    """The queue, the volume and the bounds, with what counts requests."""

    queue: JobQueue
    settings: HttpSettings
    tokens: Tokens
    metrics: HttpMetrics
    volume: Volume = field(init=False)
    intake: Intake = field(init=False)
    tickets: Tickets = field(init=False)
    streams: int = 0
    full: Full = field(init=False)
    started: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.volume = Volume(self.settings.out)
        self.intake = Intake(Runs(self.volume), self.settings)
        # Equal tokens give equal keys, so that every API process honours the links of the others.
        digests = "".join(sorted(token.sha256 for token in self.tokens.current())) or secrets.token_hex(32)
        self.full = Full(self.settings.refusal_s)
        self.tickets = Tickets(hashlib.sha256(f"gowhy report links {digests}".encode()).digest())
        # Writers wait for each other in the database anyway; here they wait without holding a thread, so that
        # reads find one.
        self.looking = CapacityLimiter(1)
        self.taking = CapacityLimiter(self.settings.submissions)

    def job(self, job_id: str, caller: Caller) -> JobRecord:
        """A job that the caller may see.

        Raises:
            NoSuchJob: there is none, or it is somebody else's, which shall look the same.
        """
        note(job_id=job_id)
        found = self.queue.get(job_id)
        if caller.owner not in (None, found.owner):
            raise NoSuchJob(job_id)
        return found


def services_of(request: Request) -> Services:
    """The application's services."""
    found: Services = request.app.state.services
    return found


WithServices = Annotated[Services, Depends(services_of)]
