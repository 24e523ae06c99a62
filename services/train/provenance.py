"""Which code and which machine made a run."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from shared.manifest import Git

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CREDENTIALS = re.compile(r"(?<=://)[^/@]+@")


def git_record(folder: Path) -> Git:
    """Commit, dirtiness and remote of the repository; outside one, the commit of the image, or nulls. Credentials are cut from the remote."""
    commit = _git(folder, "rev-parse", "HEAD") or _image_revision()
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    remote = _git(folder, "config", "--get", "remote.origin.url")
    return Git(
        commit=commit or None,
        is_dirty=None if status is None else bool(status),
        remote=_CREDENTIALS.sub("", remote) if remote else None,
    )


def _image_revision(environment: Mapping[str, str] = os.environ) -> str | None:
    revision = environment.get("GOWHY_REVISION", "")
    return revision if _COMMIT.fullmatch(revision) else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def python_version() -> str:
    """Interpreter and version, such as `CPython 3.11.7`."""
    return f"{platform.python_implementation()} {platform.python_version()}"
