"""What the service says of a job."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from services.xai_worker.queue.base import JobRecord, JobState
from services.xai_worker.request import ExplainRequest

ROOT = "/v1/explanations"


class Links(BaseModel):
    """Addresses on this service."""

    self: str
    events: str
    result: str
    cancel: str
    retry: str
    report_link: str


class Failure(BaseModel):
    """Why the last attempt failed."""

    code: str
    message: str
    retryable: bool


class Progress(BaseModel):
    """How far the running attempt is."""

    done: int | None = Field(None, description="finished proteins")
    total: int | None = None
    protein: str | None = None
    model: str | None = None
    method: str | None = None


class Job(BaseModel):
    """One job. Times are ISO 8601, UTC."""

    id: str
    state: JobState
    run_id: str
    owner: str = Field(description="name of the token that submitted it")
    request: ExplainRequest
    work: int = Field(description="proteins x terms x residues, at most")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    retry_at: datetime | None = Field(description="running, but between two attempts: when the next one begins")
    round: int = Field(description="1, and one more after each retry")
    attempt: int = Field(description="attempts begun so far")
    cancel_requested: bool
    progress: Progress | None
    error: Failure | None
    result: str | None = Field(description="result folder on the volume, once it stands")
    links: Links


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[Job]
    next_page_token: str | None = Field(description="for the next page; null at the end")


def path_of(job_id: str) -> str:
    """The job's address."""
    return f"{ROOT}/{job_id}"


def etag_of(job: JobRecord) -> str:
    """Changes with every change of the job."""
    return f'"{job.id}-{job.version}"'


def job_view(job: JobRecord) -> Job:
    """The record as clients see it."""
    here = path_of(job.id)
    return Job(
        id=job.id,
        state=job.state,
        run_id=job.run_id,
        owner=job.owner,
        request=ExplainRequest.model_validate(dict(job.request)),
        work=job.work_units,
        created_at=_moment(job.created_at),
        started_at=_maybe(job.started_at),
        finished_at=_maybe(job.finished_at),
        retry_at=_maybe(job.retry_at),
        round=job.round,
        attempt=job.attempt,
        cancel_requested=job.cancel_requested,
        progress=None if job.progress is None else Progress.model_validate(dict(job.progress)),
        error=None
        if job.error is None
        else Failure(code=job.error.code, message=job.error.message, retryable=job.error.retryable),
        result=job.result,
        links=Links(
            self=here,
            events=f"{here}/events",
            result=f"{here}/result",
            cancel=f"{here}/cancel",
            retry=f"{here}/retry",
            report_link=f"{here}/report-link",
        ),
    )


def event_data(data: Any, at: float) -> dict[str, Any]:
    """An event's data with its time."""
    return {**data, "at": _moment(at).isoformat(timespec="milliseconds")}


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _maybe(seconds: float | None) -> datetime | None:
    return None if seconds is None else _moment(seconds)
