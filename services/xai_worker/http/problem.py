"""RFC 9457: every error is application/problem+json with a stable type; no exception's text ever leaves.

A route raises `Problem`; whatever else is raised becomes `internal`, and its text goes to the log alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from services.xai_worker.http.context import request_id
from shared.errors import GowhyError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:gowhy:problem:"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem; its name and status never change."""

    status: int
    title: str


KINDS: dict[str, Kind] = {
    "malformed": Kind(400, "The request cannot be read"),
    "unauthorized": Kind(401, "A valid bearer token is needed"),
    "forbidden": Kind(403, "The token does not allow this"),
    "not-found": Kind(404, "There is no such thing"),
    "method-not-allowed": Kind(405, "This address does not take this method"),
    "timeout": Kind(408, "The request did not arrive in time"),
    "wrong-state": Kind(409, "The job's state does not allow this"),
    "gone": Kind(410, "The result is no longer kept"),
    "too-large": Kind(413, "The body is too large"),
    "unsupported-media-type": Kind(415, "The body is of an unsupported type"),
    "invalid": Kind(422, "The request is not possible"),
    "manifest-invalid": Kind(422, "The manifest is not acceptable"),
    "manifest-mismatch": Kind(422, "The manifest is not the one on the volume"),
    "files-not-visible": Kind(422, "The worker cannot see the run's files"),
    "too-much-work": Kind(422, "The job asks for more than one job may"),
    "key-reused": Kind(422, "The idempotency key belongs to another request"),
    "queue-full": Kind(429, "The queue is full"),
    "token-limit": Kind(429, "This token has too many unfinished jobs"),
    "too-many-streams": Kind(429, "Too many event streams are open"),
    "internal": Kind(500, "An internal error; the request id finds it in the log"),
    "draining": Kind(503, "The service is shutting down"),
    "unavailable": Kind(503, "The service cannot answer now"),
}

# For what the framework itself refuses.
BY_STATUS = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "timeout",
    413: "too-large",
    415: "unsupported-media-type",
}

# GowhyError.code -> kind, where one escapes a route; its text is written for the command line and is not sent.
BY_CODE = {
    "internal": "internal",
    "usage": "invalid",
    "bad_data": "manifest-invalid",
    "missing_input": "files-not-visible",
    "unavailable": "unavailable",
    "cannot_write": "unavailable",
    "try_again": "unavailable",
    "not_permitted": "manifest-invalid",
    "bad_config": "internal",
    "env_mismatch": "internal",
    "integrity": "manifest-invalid",
    "parity": "manifest-invalid",
    "out_of_sight": "files-not-visible",
    "queue_full": "queue-full",
    "owner_quota": "token-limit",
    "key_reused": "key-reused",
    "draining": "draining",
    "store_down": "unavailable",
    "no_such_job": "not-found",
    "wrong_state": "wrong-state",
    "bad_page_token": "malformed",
}

# Errors of the queue whose text says nothing but what the client did.
SPOKEN = {"queue_full", "owner_quota", "key_reused", "draining", "no_such_job", "wrong_state", "bad_page_token"}


class ProblemDetails(BaseModel):
    """The body of every error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="stable: urn:gowhy:problem:<kind>")
    title: str
    status: int
    detail: str | None = Field(None, description="what to do about it")
    request_id: str = Field(description="also in the header X-Request-ID and in the log")


class Problem(Exception):
    """An error with a kind of `KINDS`; `detail` is written for the client."""

    def __init__(
        self, kind: str, detail: str | None = None, *, headers: Mapping[str, str] | None = None, **extra: Any
    ) -> None:
        self.kind, self.detail, self.headers, self.extra = kind, detail, dict(headers or {}), extra
        super().__init__(f"{kind}: {detail}")

    @classmethod
    def later(cls, kind: str, retry_after_s: float, detail: str, **extra: Any) -> Problem:
        """One that goes away by itself; says when to ask again."""
        return cls(kind, detail, headers={"Retry-After": str(max(1, round(retry_after_s)))}, **extra)


def body_of(kind: str, detail: str | None = None, **extra: Any) -> dict[str, Any]:
    """The document of one problem."""
    known = KINDS[kind]
    body = {"type": TYPE_PREFIX + kind, "title": known.title, "status": known.status, "request_id": request_id()}
    return body | ({} if detail is None else {"detail": detail}) | extra


def render(
    kind: str, detail: str | None = None, headers: Mapping[str, str] | None = None, **extra: Any
) -> JSONResponse:
    """The response of one problem."""
    return JSONResponse(
        body_of(kind, detail, **extra), KINDS[kind].status, headers=dict(headers or {}), media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Turn everything that a route can raise into a problem; the rest is `context.RequestContext`'s."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(GowhyError, _gowhy)


async def _problem(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)  # noqa: S101 - registered for it alone
    return render(error.kind, error.detail, error.headers, **error.extra)


async def _http(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
    kind = BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "malformed")
    return render(kind, headers=error.headers)


async def _validation(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
    return render("invalid", "; ".join(explain(item) for item in error.errors()[:5]))


async def _gowhy(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GowhyError)  # noqa: S101 - registered for it alone
    retry_after = {"Retry-After": str(max(1, getattr(error, "retry_after_s", 5)))} if error.retryable else None
    return render(BY_CODE[error.code], error.render() if error.code in SPOKEN else None, retry_after)


def explain(item: Mapping[str, Any]) -> str:
    """Field and reason of one pydantic error, without the value that was sent."""
    return f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}".lstrip(": ")


def responses(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries for the problems that a route can answer with."""
    grouped: dict[int, list[str]] = {}
    for kind in kinds:
        grouped.setdefault(KINDS[kind].status, []).append(kind)
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {
            "description": "; ".join(f"`{kind}`: {KINDS[kind].title}" for kind in names),
            "content": {MEDIA_TYPE: {"schema": schema}},
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status, names in sorted(grouped.items())
    }


_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
