"""Is the process there, and can it take work?"""

from __future__ import annotations

import threading
import time
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.xai_worker.http.problem import Problem, responses
from services.xai_worker.http.services import Services, WithServices
from shared.errors import GowhyError

router = APIRouter(tags=["health"])

KEPT_S = 1.0  # anybody may ask, and each look writes to the database


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Every check holds."""

    status: Literal["ready"] = "ready"
    checks: Annotated[dict[str, str], Field(description="check -> ok")]


@router.get("/v1/health/live", responses=responses("internal"))
async def live() -> Alive:
    """Answers as long as the process does."""
    return Alive()


@router.get("/v1/health/ready", responses=responses("draining", "unavailable", "internal"))
def ready(services: WithServices) -> Ready:
    """200 when a job would be taken and run: the database writes, the volume and a worker are there, no shutdown."""
    if services.queue.draining:
        raise Problem.later("draining", 30, "The service takes no new job")
    checks = _LOOKS.get(services)
    if any(said != "ok" for said in checks.values()):
        failed = ", ".join(name for name, said in checks.items() if said != "ok")
        raise Problem.later("unavailable", 5, f"Not ready: {failed}", checks=checks)
    return Ready(checks=checks)


class _Looks:
    """The last look at each application's parts, for a moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[float, int, dict[str, str]] = (0.0, 0, {})

    def get(self, services: Services) -> dict[str, str]:
        with self._lock:
            at, whose, checks = self._kept
            if whose != id(services) or time.monotonic() - at > KEPT_S:
                checks = _look(services)
                self._kept = (time.monotonic(), id(services), checks)
            return checks


def _look(services: Services) -> dict[str, str]:
    try:
        services.queue.ping()
        workers = services.queue.stats().workers
        checks = {"database": "ok", "workers": "ok" if workers else "no live worker"}
    except GowhyError:
        checks = {"database": "does not take a write", "workers": "not known"}
    checks["volume"] = "ok" if services.volume.root.is_dir() else "not there"
    return checks


_LOOKS = _Looks()
