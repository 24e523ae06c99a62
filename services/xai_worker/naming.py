"""Names of files and attributes made from ids that anybody may have chosen."""

from __future__ import annotations

import re

from shared.digests import sha256_bytes

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def safe_name(text: str) -> str:
    """The text itself where every file system takes it as a name, else a safe part of it and a digest."""
    if _SAFE_NAME.fullmatch(text):
        return text
    kept = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40].strip("_-") or "protein"
    return f"{kept}-{sha256_bytes(text.encode())[:12]}"


def identifier(*words: str) -> str:
    """Letters, digits and underscores, no digit first: what ChimeraX takes as an attribute's name."""
    return "gowhy_" + re.sub(r"[^A-Za-z0-9]+", "_", "_".join(words)).strip("_")
