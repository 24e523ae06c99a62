"""Results: the record, its files, and links by which a browser opens the report."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from services.xai_worker.folder import RESULT
from services.xai_worker.http.auth import Caller, require
from services.xai_worker.http.problem import Problem, responses
from services.xai_worker.http.services import JobId, Services, WithServices
from services.xai_worker.queue.base import JobRecord, JobState, NoSuchJob
from services.xai_worker.routes.views import ROOT, path_of
from services.xai_worker.volume import OutOfSight

router = APIRouter(tags=["results"])

Reader = Annotated[Caller, Depends(require("read"))]
FilePath = Annotated[str, Path(max_length=300, description="as listed under `files` of the result")]

MAX_RESULT_BYTES = 64 << 20
BLOCK_BYTES = 1 << 16
INDEX = "index.html"
# A report comes from the volume, which others write. It runs in an origin of its own: it can neither read this
# service's storage nor send anything anywhere.
SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".tsv": "text/tab-separated-values; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
}
ACCESS = ("unauthorized", "forbidden", "not-found", "invalid", "unavailable", "internal")
A_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "the file", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
}


class ReportLink(BaseModel):
    """An address that opens the report without a token, until its end."""

    url: str
    expires_at: datetime


@router.get(
    ROOT + "/{job_id}/result",
    responses={
        **responses(*ACCESS, "wrong-state", "gone"),
        200: {"content": {"application/json": {"schema": {"type": "object"}}}},
    },
)
def result(job_id: JobId, caller: Reader, services: WithServices) -> JSONResponse:
    """What result.json says, with the address of each file: counts, provenance, gates, hashes."""
    found = _result(services, services.job(job_id, caller))
    here = path_of(job_id)
    files = {name: {**record, "url": f"{here}/files/{name}"} for name, record in found["files"].items()}
    return JSONResponse({**found, "job_id": job_id, "files": files})


@router.get(
    ROOT + "/{job_id}/files/{path:path}",
    response_class=StreamingResponse,
    responses={**responses(*ACCESS, "wrong-state", "gone"), **A_FILE},
)
def download(job_id: JobId, path: FilePath, caller: Reader, services: WithServices) -> Response:
    """One file of the result folder."""
    return _send(services, services.job(job_id, caller), path)


@router.post(ROOT + "/{job_id}/report-link", responses=responses(*ACCESS, "wrong-state", "gone"))
def report_link(job_id: JobId, caller: Reader, services: WithServices) -> ReportLink:
    """An address to open in a browser, which cannot send a token with a link."""
    _result(services, services.job(job_id, caller))
    ticket, end = services.tickets.make(job_id)
    return ReportLink(url=f"/v1/reports/{ticket}/{INDEX}", expires_at=datetime.fromtimestamp(end, UTC))


@router.get(
    "/v1/reports/{ticket}/{path:path}",
    response_class=StreamingResponse,
    responses={**responses("not-found", "invalid", "wrong-state", "gone", "unavailable", "internal"), **A_FILE},
)
def report(ticket: Annotated[str, Path(max_length=200)], path: FilePath, services: WithServices) -> Response:
    """A page of a report, by a link of `report-link`."""
    job_id = services.tickets.job_of(ticket)
    if job_id is None:
        raise Problem("not-found", "The link has ended; ask for a new one")
    return _send(services, services.queue.get(job_id), path)


def _result(services: Services, job: JobRecord) -> dict[str, Any]:
    if job.state is not JobState.SUCCEEDED or job.result is None:
        raise Problem("wrong-state", f"The job is {job.state}; it has a result when it succeeded")
    try:
        data = services.volume.read(f"{job.result}/{RESULT}", MAX_RESULT_BYTES)
    except OutOfSight as error:
        raise Problem("gone", "The result folder was removed from the volume") from error
    try:
        found = json.loads(data)
        files = found["files"]
        if len(data) <= MAX_RESULT_BYTES and isinstance(files, dict):
            return dict(found)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Problem("gone", "The result folder holds no readable result")


def _send(services: Services, job: JobRecord, path: str) -> Response:
    record = _result(services, job)["files"].get(path)
    if record is None:
        raise NoSuchJob(f"{job.id}/{path}")
    suffix = PurePosixPath(path).suffix
    headers = {"ETag": f'"{record["sha256"]}"'}
    if suffix == ".html":
        headers["Content-Security-Policy"] = SANDBOX
    else:
        name = path.rpartition("/")[2]
        headers["Content-Disposition"] = f'attachment; filename="{name}"' if name.isascii() else "attachment"
    stack = ExitStack()
    try:
        descriptor = stack.enter_context(services.volume.open(f"{job.result}/{path}"))
    except OutOfSight as error:
        raise Problem("gone", "The file was removed from the volume") from error
    headers["Content-Length"] = str(size := os.fstat(descriptor).st_size)
    return StreamingResponse(
        _blocks(stack, descriptor, size), headers=headers, media_type=TYPES.get(suffix, "application/octet-stream")
    )


def _blocks(stack: ExitStack, descriptor: int, size: int) -> Iterator[bytes]:
    with stack:
        while size > 0 and (block := os.read(descriptor, min(BLOCK_BYTES, size))):
            size -= len(block)
            yield block
