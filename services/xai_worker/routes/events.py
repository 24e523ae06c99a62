"""What happens to a job, as server-sent events: history first, then news, until the job's end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from services.xai_worker.http.auth import Caller, require
from services.xai_worker.http.problem import Problem, responses
from services.xai_worker.http.services import JobId, WithServices
from services.xai_worker.routes.views import ROOT, event_data

router = APIRouter(tags=["explanations"])

AGAIN_MS = 3_000


async def _stream_place(
    job_id: JobId, caller: Annotated[Caller, Depends(require("read"))], services: WithServices
) -> AsyncIterator[str]:
    """Hold one of the places for streams, and refuse before the stream begins."""
    await to_thread.run_sync(services.job, job_id, caller)
    if services.streams >= services.settings.max_streams:
        raise Problem.later("too-many-streams", 5, "Close one, or poll the job instead")
    services.streams += 1
    services.metrics.streams.set(services.streams)
    try:
        yield job_id
    finally:
        services.streams -= 1
        services.metrics.streams.set(services.streams)


@router.get(
    ROOT + "/{job_id}/events",
    response_class=EventSourceResponse,
    responses=responses(
        "unauthorized", "forbidden", "not-found", "invalid", "too-many-streams", "unavailable", "internal"
    ),
)
async def events(
    place: Annotated[str, Depends(_stream_place)],
    services: WithServices,
    last_event_id: Annotated[
        str | None, Header(max_length=20, pattern=r"^[0-9]*$", description="go on after this event")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Events with the ids 1, 2, ...; the one whose kind is a final state is the last.

    `progress` events say which protein, model and method is at work. Comments keep the connection alive. When the
    stream ends without a final state (the service stops, or the stream grew old), connect again with Last-Event-ID.
    """
    seen = int(last_event_id or 0)
    until = time.monotonic() + services.settings.stream_s
    while time.monotonic() < until and not services.queue.draining:
        # The state is read before the events: whatever made it final is then among them.
        job = await to_thread.run_sync(services.queue.get, place)
        while news := await to_thread.run_sync(services.queue.events, place, seen):
            for event in news:
                seen = event.id
                yield ServerSentEvent(id=str(event.id), event=event.kind, data=event_data(event.data, event.at))
        if job.state.final:
            return
        await asyncio.sleep(services.settings.stream_poll_s)
    yield ServerSentEvent(comment="connect again with Last-Event-ID", retry=AGAIN_MS)
