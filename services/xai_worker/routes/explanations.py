"""Jobs: submit, list, look at, cancel, retry."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from opentelemetry import propagate

from services.xai_worker.http.auth import Caller, require
from services.xai_worker.http.context import request_id
from services.xai_worker.http.problem import Problem, responses
from services.xai_worker.http.services import JobId, Services, WithServices
from services.xai_worker.intake import Asked
from services.xai_worker.logs import note
from services.xai_worker.queue.base import Accepted, JobState, OwnerQuota, QueueFull
from services.xai_worker.routes.views import ROOT, Job, JobList, etag_of, job_view, path_of

router = APIRouter(tags=["explanations"])

Submitter = Annotated[Caller, Depends(require("submit"))]
Reader = Annotated[Caller, Depends(require("read"))]
Canceller = Annotated[Caller, Depends(require("cancel"))]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="with the same key and body the same job is answered; without one each POST is a new job",
    ),
]

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
ONE_OF: dict[str, Any] = {
    "schema": {"oneOf": [{"$ref": "#/components/schemas/JobRequest"}, {"$ref": "#/components/schemas/Manifest"}]}
}
BODY = {
    "requestBody": {
        "required": True,
        "description": "A job request, or the manifest of a run on the volume: that means its five best-scored test "
        "proteins, three terms each, by every method. Sent as JSON; the type that `curl --data` sends by itself is "
        "taken too, if the first byte is `{`.",
        "content": {JSON: ONE_OF, FORM: {"schema": {"type": "string"}}},
    }
}
ACCESS = ("unauthorized", "forbidden", "unavailable", "internal")
LOCATION = {"headers": {"Location": {"description": "the job's address", "schema": {"type": "string"}}}}
REFUSALS = ("queue-full", "token-limit", "draining")


@router.post(
    ROOT,
    status_code=202,
    response_model=Job,
    openapi_extra=BODY,
    responses={
        **responses(
            *ACCESS, *REFUSALS, "malformed", "timeout", "too-large", "unsupported-media-type", "invalid",
            "manifest-invalid", "manifest-mismatch", "files-not-visible", "too-much-work", "key-reused",
        ),
        202: {"description": "accepted, durably", **LOCATION},
        200: {"model": Job, "description": "the job that this key already made (`Idempotency-Replayed: true`)"},
    },
)  # fmt: skip
async def submit(request: Request, caller: Submitter, services: WithServices, key: Key = None) -> Response:
    """Queue a job, durably, or refuse it with the reason."""
    body = await _json_body(request)
    try:
        accepted = await _accept(services, body, caller, key, _trace_of(request))
    except (QueueFull, OwnerQuota) as error:
        services.metrics.refused.labels(error.code).inc()
        await services.full.hold()
        raise
    note(job_id=accepted.job.id)
    headers = {"Location": path_of(accepted.job.id), "ETag": etag_of(accepted.job)}
    if accepted.replayed:
        headers["Idempotency-Replayed"] = "true"
    content = job_view(accepted.job).model_dump(mode="json")
    return JSONResponse(content, 200 if accepted.replayed else 202, headers=headers)


@router.get(ROOT, responses=responses(*ACCESS, "malformed", "invalid"))
def list_jobs(
    caller: Reader,
    services: WithServices,
    state: Annotated[JobState | None, Query(description="only jobs in this state")] = None,
    page_size: Annotated[int, Query(ge=1, le=200)] = 50,
    page_token: Annotated[str | None, Query(max_length=500, pattern=r"^[\x21-\x7e]+$")] = None,
) -> JobList:
    """The caller's jobs, newest first; with the scope admin everybody's."""
    page = services.queue.list(state=state, owner=caller.owner, page_token=page_token, limit=page_size)
    return JobList(jobs=[job_view(job) for job in page.jobs], next_page_token=page.next_token)


@router.get(
    ROOT + "/{job_id}",
    response_model=Job,
    responses={**responses(*ACCESS, "not-found", "invalid"), 304: {"description": "unchanged since that ETag"}},
)
def get_job(
    job_id: JobId,
    caller: Reader,
    services: WithServices,
    if_none_match: Annotated[str | None, Header(description="the ETag of an earlier answer")] = None,
) -> Response:
    """One job as it is now; the ETag changes with it."""
    job = services.job(job_id, caller)
    headers = {"ETag": etag_of(job), "Cache-Control": "no-cache"}
    if if_none_match is not None and etag_of(job) in [tag.strip() for tag in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    return JSONResponse(job_view(job).model_dump(mode="json"), headers=headers)


@router.post(ROOT + "/{job_id}/cancel", status_code=202, responses=responses(*ACCESS, "not-found", "invalid"))
def cancel(job_id: JobId, caller: Canceller, services: WithServices) -> Job:
    """Ask for the job's end. A waiting job ends at once, a running one when its process has gone; an ended one stays."""
    services.job(job_id, caller)
    return job_view(services.queue.cancel(job_id))


@router.post(
    ROOT + "/{job_id}/retry",
    status_code=202,
    responses=responses(*ACCESS, *REFUSALS, "not-found", "wrong-state", "invalid"),
)
def retry(job_id: JobId, caller: Submitter, services: WithServices) -> Job:
    """Queue a failed or cancelled job again, under the same id."""
    services.job(job_id, caller)
    return job_view(services.queue.retry(job_id))


async def _accept(services: Services, body: bytes, caller: Caller, key: str | None, trace: str | None) -> Accepted:
    if key is None:
        services.full.check()
    look = partial(_look, services, body, caller, key)
    with services.full.looking():
        asked, accepted = await to_thread.run_sync(look, limiter=services.looking)
    if accepted is not None:
        return accepted
    take = partial(_take, services, asked, caller, key, trace)
    return await to_thread.run_sync(take, limiter=services.taking)


async def _json_body(request: Request) -> bytes:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Problem("unsupported-media-type", "Send the body without compression")
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in (JSON, FORM):
        raise Problem("unsupported-media-type", f"Send {JSON}")
    body = await request.body()
    if given == FORM and not body.startswith(b"{"):
        raise Problem("unsupported-media-type", f"Send {JSON}; a form is taken only where its first byte is {{")
    return body


def _look(services: Services, body: bytes, caller: Caller, key: str | None) -> tuple[Asked, Accepted | None]:
    """Read the body; a replay, or a full queue, is answered without a look at the run."""
    asked = Asked(body)
    try:
        return asked, services.queue.precheck(caller.name, key, asked.fingerprint)
    except QueueFull as error:
        services.full.remember(error)
        raise


def _take(services: Services, asked: Asked, caller: Caller, key: str | None, trace: str | None) -> Accepted:
    if key is None:
        services.full.check()  # it may have filled while this one stood in line
    about = {"owner": caller.name, "idempotency_key": key, "request_id": request_id(), "traceparent": trace}
    try:
        return services.queue.submit(services.intake.submission(asked, **about))
    except QueueFull as error:
        services.full.remember(error)
        raise


def _trace_of(request: Request) -> str | None:
    """The W3C trace context that the job goes on with: of this request's span, else what the client sent."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    if not carrier:
        propagate.inject(carrier, propagate.extract(request.headers))
    return carrier.get("traceparent")
