"""What the routes share; one object in the application's state, made by `create_app`."""

from __future__ import annotations

import hashlib
import secrets
import time
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
from services.xai_worker.queue.base import JobQueue, JobRecord, NoSuchJob, OwnerQuota, QueueFull
from services.xai_worker.volume import Volume

JOB_ID = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
JobId = Annotated[str, Path(pattern=JOB_ID, description="as given in the answer to the submission")]


class Full:
    """That the queue was full a moment ago.

    Clients that ask again at once could keep the event loop from everybody else. So a refusal is answered only after a
    pause, and as long as one is being held back, the next are refused without asking the database. Whoever got the
    answer and asks again is never refused from memory.
    """

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self._until = 0.0
        self._known: tuple[int, int, int] | None = None

    def check(self) -> None:
        """Raise what the last look raised, if that was a moment ago.

        Raises:
            QueueFull: as many jobs wait as may.
        """
        if self._known is not None and time.monotonic() < self._until:
            raise QueueFull(*self._known)

    async def hold(self, error: QueueFull | OwnerQuota) -> None:
        """Remember a full queue, and let the refused client wait."""
        if isinstance(error, QueueFull) and time.monotonic() >= self._until:
            self._known = (error.waiting, error.bound, error.retry_after_s)
            self._until = time.monotonic() + self.pause_s
        await anyio.sleep(self.pause_s)


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
