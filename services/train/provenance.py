"""Which code and which machine made a run."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

from shared.manifest import Git

_CREDENTIALS = re.compile(r"(?<=://)[^/@]+@")


def git_record(folder: Path) -> Git:
    """Commit, dirtiness and remote of the repository; nulls outside one. Credentials are cut from the remote."""
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    remote = _git(folder, "config", "--get", "remote.origin.url")
    return Git(
        commit=commit or None,
        is_dirty=None if status is None else bool(status),
        remote=_CREDENTIALS.sub("", remote) if remote else None,
    )


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def python_version() -> str:
    """Interpreter and version, such as `CPython 3.11.7`."""
    return f"{platform.python_implementation()} {platform.python_version()}"
