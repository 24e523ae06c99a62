"""What this service can do, and how much of it."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from services.xai_worker.explainers import EXPLAINERS
from services.xai_worker.http.auth import Caller, require
from services.xai_worker.http.problem import responses
from services.xai_worker.http.services import WithServices
from services.xai_worker.queue.base import JobState
from services.xai_worker.result import SCHEMA_VERSION
from shared.manifest import MANIFEST_VERSION

router = APIRouter(tags=["info"])

API_VERSION = "1.0"


class Limits(BaseModel):
    """The bounds of one request and one job."""

    max_body_bytes: int
    max_proteins: int
    max_terms: int
    max_work: int
    max_streams: int


class QueueInfo(BaseModel):
    """The queue now."""

    waiting: int
    bound: int
    by_state: dict[JobState, int]
    oldest_waiting_s: float | None
    median_run_s: float | None
    slots: int
    workers: int
    max_attempts: int


class Info(BaseModel):
    """The service."""

    service: str = "gowhy xai-worker"
    api_version: str = API_VERSION
    manifest_version: str = MANIFEST_VERSION
    explanation_version: str = SCHEMA_VERSION
    methods: list[str]
    caller: str
    scopes: list[str]
    draining: bool
    uptime_s: float
    limits: Limits
    queue: QueueInfo


@router.get("/v1/info", responses=responses("unauthorized", "forbidden", "unavailable", "internal"))
def info(caller: Annotated[Caller, Depends(require("read"))], services: WithServices) -> Info:
    """Versions, methods, limits, the queue's figures, and what the caller's token allows."""
    stats, settings = services.queue.stats(), services.settings
    return Info(
        methods=list(EXPLAINERS),
        caller=caller.name,
        scopes=sorted(caller.scopes),
        draining=services.queue.draining,
        uptime_s=round(time.time() - services.started, 1),
        limits=Limits(**{name: getattr(settings, name) for name in Limits.model_fields}),
        queue=QueueInfo(
            waiting=stats.waiting,
            by_state=dict(stats.by_state),
            **{
                name: getattr(stats, name)
                for name in ("bound", "oldest_waiting_s", "median_run_s", "slots", "workers", "max_attempts")
            },
        ),
    )
