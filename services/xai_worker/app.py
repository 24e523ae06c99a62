"""The application: routes over a queue and a volume. Nothing happens at import."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware

from services.xai_worker.http import problem
from services.xai_worker.http.auth import check_listening
from services.xai_worker.http.context import RequestContext
from services.xai_worker.http.limits import Limits
from services.xai_worker.http.metrics import HttpMetrics
from services.xai_worker.http.services import Services
from services.xai_worker.http.tokens import Tokens
from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.intake import JobRequest
from services.xai_worker.queue.base import JobQueue
from services.xai_worker.routes import ROUTERS
from services.xai_worker.routes.info import API_VERSION
from shared.manifest import Manifest

ABOUT: dict[str, Any] = {
    "title": "gowhy xai-worker",
    "version": API_VERSION,
    "description": "Explains why Gene Ontology terms were predicted for proteins.",
}
REF = "#/components/schemas/{model}"


def create_app(queue: JobQueue, settings: HttpSettings, tokens: Tokens | None = None) -> FastAPI:
    """The HTTP service over a queue.

    Args:
        queue: what takes the jobs; closed by whoever made it.
        settings: where to listen and how much to take.
        tokens: who may ask; None reads them as the settings and the environment say.

    Raises:
        ConfigError: the settings would serve a network without a token.
    """
    known = Tokens.from_settings(settings) if tokens is None else tokens
    check_listening(settings, known)
    metrics = HttpMetrics(queue.stats)
    app = FastAPI(
        **ABOUT,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(RequestContext, metrics.observe), Middleware(Limits, settings)],
        # Logs carry exception texts; they stay in our own log.
        telemetry={"auto_configure": bool(os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")), "logs": False},
    )
    app.state.tokens = known
    app.state.services = Services(queue, settings, known, metrics)
    problem.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = openapi_document  # type: ignore[method-assign]
    return app


@cache
def openapi_document() -> dict[str, Any]:
    """The OpenAPI document: the routes, the two bodies that a submission takes, and the one that every error has."""
    bare = FastAPI(**ABOUT)
    for router in ROUTERS:
        bare.include_router(router)
    document = get_openapi(**ABOUT, routes=bare.routes)
    models: list[Any] = [(model, "validation") for model in (JobRequest, Manifest, problem.ProblemDetails)]
    _, definitions = models_json_schema(models, ref_template=REF)
    document["components"].setdefault("schemas", {}).update(definitions["$defs"])
    return document
