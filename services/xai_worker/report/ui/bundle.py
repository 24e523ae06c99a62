"""Finds the built libraries. Without them the page is plain HTML and SVG, and says how to get the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from shared.digests import sha256_bytes

Library = Literal["viewer", "tracks"]
DIST = Path(__file__).parent / "dist"
SWITCH = "GOWHY_XAI_UI"  # "off": pages without the libraries although they are built


def built(library: Library) -> bool:
    """Is the library there and wanted?"""
    return os.environ.get(SWITCH) != "off" and (DIST / f"{library}.js").is_file()


def scripts(wanted: Sequence[Library]) -> list[str]:
    """The libraries' scripts to inline, those that are built."""
    return [_read(DIST / f"{library}.js") for library in wanted if built(library)]


def digests() -> list[str]:
    """What else decides a page's bytes: the libraries that would be inlined."""
    return [sha256_bytes(text.encode()) for text in scripts(("viewer", "tracks"))]


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script").replace("<!--", "<\\!--")
