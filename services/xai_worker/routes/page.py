"""The page at /: one document, whose style and script are all that its policy lets run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from services.xai_worker.http.problem import responses

router = APIRouter(tags=["page"])

FOLDER = Path(__file__).resolve().parents[1] / "page"


@router.get("/", response_class=HTMLResponse, responses=responses("internal"))
async def page() -> HTMLResponse:
    """Jobs, queue, a form to submit, live progress. The page holds no data; it asks with the token typed into it."""
    text, policy = _page()
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"})


@cache
def _page() -> tuple[str, str]:
    style, script = _text("style.css"), _text("page.js")
    text = _text("page.html").replace("{{ style }}", style).replace("{{ script }}", script)
    policy = (
        f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
