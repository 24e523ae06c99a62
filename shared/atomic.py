"""Files that are either whole or absent: temp file in the same folder, fsync, rename, fsync the folder."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.digests import canonical_json
from shared.errors import from_os_error


def fsync_path(path: Path) -> None:
    """Flush a file or a folder entry to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(temporary: Path, final: Path) -> None:
    """Make a finished temporary file visible under its final name, durably."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        fsync_path(temporary)
        temporary.replace(final)
        fsync_path(final.parent)
    except OSError as error:
        raise from_os_error(error, str(final)) from error


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path to write; it becomes `final` only if the block ends normally.

    The temporary name keeps the suffix, so that writers which look at it do the same thing.
    """
    temporary = final.with_name(f".{uuid.uuid4().hex}.{final.name}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        publish(temporary, final)
    except OSError as error:
        raise from_os_error(error, str(final)) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(final: Path, data: bytes) -> None:
    """Write a whole file atomically."""
    with atomic_path(final) as temporary:
        temporary.write_bytes(data)


def write_json(final: Path, value: Any) -> None:
    """Write canonical JSON, indented by nothing and ended by a newline, atomically."""
    write_bytes(final, canonical_json(value) + b"\n")
