"""A result folder that is either whole or absent, and written by one process at a time.

A queued job may be run twice at once, when a worker that was taken for dead wakes. Its attempts stage in
folders of their own, each asks the queue before it publishes, and the first rename wins: a folder that
stands is never replaced. A job that ends without a result while an attempt may still be about to publish
is sealed: a folder under the final name, so that the rename fails.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.atomic import fsync_path, write_json
from shared.digests import sha256_file
from shared.errors import GowhyError, IntegrityError, NotPermitted, TryAgain, from_os_error

RESULT, SEAL = "result.json", "sealed.json"
PARTS = ".parts"  # ending of the folder of services.xai_worker.parts
PARTS_KEPT_S = 7 * 86_400.0


class MayNotPublish(GowhyError):
    """The job was cancelled, or belongs to another attempt."""

    code = "may_not_publish"
    retryable = True  # a zombie may have sealed the folder of a job that goes on


@dataclass(frozen=True, slots=True)
class Gate:
    """What an attempt at a queued job passes before it publishes.

    Args:
        attempt: names the staging folder.
        ask: returns if the attempt may publish, and raises `MayNotPublish` if not.
        renamed: called when the folder stands.
    """

    attempt: int
    ask: Callable[[], None]
    renamed: Callable[[], None] = lambda: None


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
def published(final: Path, gate: Gate | None = None) -> Iterator[Path]:
    """Yield an empty staging folder; it becomes `final` only if the block ends normally.

    The staging folder beside `final` is locked by its own descriptor, so that a killed process leaves
    no lock, and its leftovers are cleared by the next one.

    Args:
        final: the result folder. Without a gate, one that is there is replaced.
        gate: passed before publishing; where another attempt was faster, its result stays and ours goes.

    Raises:
        TryAgain: another process is making the same result.
        NotPermitted: `final` or its parent is a link, which could lead outside the run folder.
        MayNotPublish: the gate is closed, or the folder sealed.
        IntegrityError: something that is no result stands under the final name of a queued job.
    """
    refuse_links(final)
    staging = staging_of(final, None if gate is None else gate.attempt)
    try:
        descriptor = _locked(staging)
        try:
            _clear(staging)
            yield staging
            if gate is not None:
                gate.ask()
                if _rename_new(staging, final):
                    gate.renamed()
            else:
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


def seal(final: Path, why: str) -> bool:
    """Make publishing impossible; False if a result stands already. Sealing twice is no error."""
    refuse_links(final)
    staging = final.with_name(f".{final.name}.{uuid.uuid4().hex}.seal")
    try:
        staging.mkdir(parents=True)
        write_json(staging / SEAL, {"status": "sealed", "why": why})
        staging.rename(final)
        fsync_path(final.parent)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if error.errno not in _OCCUPIED:
            raise from_os_error(error, str(final)) from error
    return (final / SEAL).exists()


def unseal(final: Path) -> None:
    """Open a sealed folder again, for a new round."""
    refuse_links(final)
    if (final / SEAL).exists():
        gone = final.with_name(f".{final.name}.{uuid.uuid4().hex}.seal")
        final.rename(gone)
        shutil.rmtree(gone)


def clear_staging(final: Path) -> None:
    """Remove what dead attempts at one result left; a folder whose owner lives is left alone."""
    for folder in final.parent.glob(f".{final.name}.*"):
        _remove_ownerless(folder)


def sweep_staging(results: Path, older_than_s: float = 60.0) -> None:
    """The same for all results of a run. Young folders stay: their owner may not have locked them yet.

    Finished proteins of a job that was never published stay for a week: a retry, or the same command, goes on from them.
    """
    for folder in results.glob(".*"):
        try:
            age_s = time.time() - folder.stat().st_mtime
        except FileNotFoundError:
            continue
        if folder.suffix == PARTS and age_s > PARTS_KEPT_S and folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        elif age_s >= older_than_s:
            _remove_ownerless(folder)


def _remove_ownerless(folder: Path) -> None:
    if folder.suffix not in {".partial", ".seal"}:
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # gone, or no folder of ours
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def staging_of(final: Path, attempt: int | None) -> Path:
    """Where a result is made before it is published."""
    return final.with_name(f".{final.name}.partial" if attempt is None else f".{final.name}.{attempt}.partial")


def refuse_links(final: Path) -> None:
    """Keep results inside the run folder.

    Raises:
        NotPermitted: the folder or its parent is a link.
    """
    if final.is_symlink() or final.parent.is_symlink():
        raise NotPermitted(
            f"{final} leads through a link", remedy="Remove the link; results stay inside the run folder"
        )


_OCCUPIED = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


def _rename_new(staging: Path, final: Path) -> bool:
    """Rename a folder that is not empty; POSIX refuses where another one that is not empty stands.

    False: another attempt's result stands there, which is the same.
    """
    try:
        staging.rename(final)
    except OSError as error:
        if error.errno not in _OCCUPIED:
            raise
        if (final / SEAL).exists():
            raise MayNotPublish("the job has ended without a result", where=str(final)) from error
        if read_complete(final) is None:
            raise IntegrityError(
                "something else stands where the result belongs",
                where=str(final),
                remedy="Remove it, then retry the job",
            ) from error
        return False
    return True


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
