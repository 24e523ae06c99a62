"""The HTTP resources, one file each; `ROUTERS` is all of them."""

from __future__ import annotations

from services.xai_worker.routes import events, explanations, files, health, info, metrics, page

ROUTERS = (
    explanations.router,
    events.router,
    files.router,
    health.router,
    info.router,
    metrics.router,
    page.router,
)
