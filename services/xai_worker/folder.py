"""A result folder that is either whole or absent, and written by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.atomic import fsync_path, write_json
from shared.digests import sha256_file
from shared.errors import NotPermitted, TryAgain, from_os_error

RESULT = "result.json"


def read_complete(folder: Path) -> dict[str, Any] | None:
    """The folder's result.json, if every file that it names is there with the bytes it names; else None."""
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_bytes())
        intact = all(sha256_file(folder / path) == record["sha256"] for path, record in result["files"].items())
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return result if intact else None


def file_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Path -> sha256 and size of every file under the folder, sorted, result.json left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RESULT)
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256_file(path), "size": path.stat().st_size}
        for path in files
    }


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Write result.json last, with the hashes of everything else."""
    for path in folder.rglob("*"):
        fsync_path(path)
    write_json(folder / RESULT, {**result, "files": file_records(folder)})


@contextmanager
def published(final: Path) -> Iterator[Path]:
    """Yield an empty staging folder; it becomes `final` only if the block ends normally.

    The staging folder beside `final` is locked by its own descriptor, so that a killed process leaves
    no lock, and its leftovers are cleared by the next one.

    Raises:
        TryAgain: another process is making the same result.
        NotPermitted: `final` or its parent is a link, which could lead outside the run folder.
    """
    if final.is_symlink() or final.parent.is_symlink():
        raise NotPermitted(
            f"{final} leads through a link", remedy="Remove the link; results stay inside the run folder"
        )
    staging = final.with_name(f".{final.name}.partial")
    try:
        descriptor = _locked(staging)
        try:
            _clear(staging)
            yield staging
            if final.exists():
                shutil.rmtree(final)
            staging.rename(final)
            fsync_path(final.parent)
        finally:
            if staging.exists() and _same(staging, descriptor):
                shutil.rmtree(staging)
            os.close(descriptor)
    except OSError as error:
        raise from_os_error(error, str(final)) from error


def _locked(staging: Path) -> int:
    while True:
        staging.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise TryAgain(
                "another process is making the same explanations", where=str(staging), remedy="Wait for it to finish"
            ) from error
        # Its owner may have published the folder between our open and our lock.
        if _same(staging, descriptor):
            return descriptor
        os.close(descriptor)


def _same(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
