"""Move bytes: several files at a time, each one resumable, none accepted before its sha256 agrees."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shared.atomic import atomic_path, fsync_path
from shared.digests import CHUNK_BYTES
from shared.errors import IntegrityError, from_os_error
from shared.progress import progress
from shared.stores.base import DamagedBody, Meter, Transient
from shared.stores.retry import Patience

T = TypeVar("T")


class Stopped(Exception):
    """Another file of the same batch failed; this one need not go on."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object to fetch: `read(start)` gives its bytes from there on.

    `turn` is held while they come in, and not while the disk is waited for: meanwhile the next transfer begins.
    """

    sha256: str
    size: int
    read: Callable[[int], Iterator[bytes]]
    where: str
    turn: AbstractContextManager[Any]


def run_batch(what: str, total_bytes: int, threads: int, work: Callable[[T, Meter], None], items: Iterable[T]) -> None:
    """Call `work(item, meter)` for every item, several at a time; the first failure stops the rest and is raised.

    `meter` counts bytes, shows progress, and is where a stopped item leaves.
    """
    items = list(items)
    stop, lock = threading.Event(), threading.Lock()
    with progress(what, total_bytes, unit="B") as shown:

        def meter(count: int) -> None:
            if stop.is_set():
                raise Stopped
            with lock:
                shown.advance(min(count, shown.total - shown.done))

        with ThreadPoolExecutor(max_workers=max(1, min(threads, len(items)))) as pool:
            futures = [pool.submit(work, item, meter) for item in items]
            try:
                finished, running = wait(futures, return_when=FIRST_EXCEPTION)
                if running or any(future.exception() is not None for future in finished):
                    stop.set()
            except BaseException:
                stop.set()
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    errors = [error for future in futures if not future.cancelled() and (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda item: isinstance(item, Stopped)):
        raise error


def fetch(wanted: Wanted, target: Path, parts: Path, patience: Patience, meter: Meter) -> None:
    """Download an object to `target`: resumed where an earlier try stopped, verified, durable, then visible.

    Raises:
        IntegrityError: the bytes do not hash to the object's name, twice.
        ServiceUnavailable: the remote did not answer; the part file stays for the next try.
    """
    with part_file(parts, wanted.sha256) as part:
        with wanted.turn:
            found = patience.call(lambda: _receive(wanted, part, meter))
            if found != wanted.sha256:
                # Once more from nothing: a damaged part file must not be resumed from.
                os.truncate(part, 0)
                found = patience.call(lambda: _receive(wanted, part, meter))
        if found != wanted.sha256:
            part.unlink()
            raise IntegrityError(
                f"expected sha256 {wanted.sha256}, got {found}",
                where=wanted.where,
                remedy="Mend it with `store repair` from a run folder that has the file",
            )
        place(part, target)


def _receive(wanted: Wanted, part: Path, meter: Meter) -> str:
    """Append what is missing to the part file; the sha256 of the whole."""
    digest = hashlib.sha256()
    done = before = 0
    try:
        with part.open("a+b", buffering=0) as file:
            if part.stat().st_size > wanted.size:
                file.truncate(0)
            file.seek(0)
            while block := file.read(CHUNK_BYTES):
                digest.update(block)
                done += len(block)
            before = done
            if done < wanted.size:
                for block in wanted.read(done):
                    file.write(block)
                    digest.update(block)
                    done += len(block)
                    meter(len(block))
    except DamagedBody:
        return "other bytes (a checksum on the way differs)"
    except (ConnectionError, TimeoutError) as error:
        raise Transient(str(error), where=wanted.where) from error
    except OSError as error:
        raise from_os_error(error, str(part)) from error
    if done < wanted.size and done == before:
        return f"only {done} of {wanted.size} bytes"  # it ended there before: the stored file is short
    if done < wanted.size:
        raise Transient(f"got {done} of {wanted.size} bytes", where=wanted.where)
    return digest.hexdigest()


def place(part: Path, target: Path) -> None:
    """Move a finished part file, on disk already, to its place; across file systems by copy.

    The new name itself becomes durable when the batch ends: a sync of the folder after each file would force a
    journal commit that waits for what the other threads are writing.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fsync_path(part)
        part.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise from_os_error(error, str(target)) from error
        copy_file(part, target)
        part.unlink()


def copy_file(source: Path, target: Path) -> str:
    """Copy atomically; the sha256 of what was copied."""
    digest = hashlib.sha256()
    with atomic_path(target) as temporary, source.open("rb") as reader, temporary.open("wb") as writer:
        while block := reader.read(CHUNK_BYTES):
            writer.write(block)
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def part_file(folder: Path, sha256: str) -> Iterator[Path]:
    """The part file of an object, for this process alone; where another one works on it, a private one."""
    path = folder / f"{sha256}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise from_os_error(error, str(path)) from error
    try:
        if _locked(handle, path):
            yield path
            return
    finally:
        os.close(handle)
    path = folder / f"{sha256}.{uuid.uuid4().hex}.part"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _locked(handle: int, path: Path) -> bool:
    """True when this process holds the file, and the name still means that file."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(handle).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def hash_file(path: Path) -> tuple[str, str, int]:
    """sha256, md5 and size of a file, in one pass."""
    sha, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            sha.update(block)
            md5.update(block)
            size += len(block)
    return sha.hexdigest(), md5.hexdigest(), size
