"""Metrics for Prometheus."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from services.xai_worker.http.auth import identify
from services.xai_worker.http.metrics import CONTENT_TYPE
from services.xai_worker.http.problem import Problem, responses
from services.xai_worker.http.services import WithServices

router = APIRouter(tags=["metrics"])

_BEARER = HTTPBearer(auto_error=False)
TEXT: dict[int | str, dict[str, Any]] = {
    200: {"description": "the exposition format", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/metrics", response_class=PlainTextResponse, include_in_schema=False)
@router.get(
    "/v1/metrics",
    response_class=PlainTextResponse,
    responses={**responses("unauthorized", "forbidden", "unavailable", "internal"), **TEXT},
)
def metrics(
    request: Request,
    services: WithServices,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Response:
    """Queue depth and bound, ages, jobs by state and reason, waits, requests. Open where `metrics_open` says so."""
    if not services.settings.metrics_open:
        caller = identify(request, None if credentials is None else credentials.credentials)
        if not caller.scopes & {"read", "admin"}:
            raise Problem("forbidden", "The token lacks the scope read")
    return Response(services.metrics.render(), media_type=CONTENT_TYPE)
