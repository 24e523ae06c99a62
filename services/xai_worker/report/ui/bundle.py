"""Finds the built libraries. Without them the page is plain HTML and SVG, and says how to get the rest."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

DIST = Path(__file__).parent / "dist"
SWITCH = "GOWHY_XAI_UI"  # "off": pages without the libraries although they are built


def built() -> bool:
    """Is the bundle there and wanted?"""
    return os.environ.get(SWITCH) != "off" and (DIST / "viewer.js").is_file()


def script(*, needed: bool) -> str:
    """The libraries as one script; empty where the page has nothing to show with them, or they are not built."""
    return _read(DIST / "viewer.js") if needed and built() else ""


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script")
