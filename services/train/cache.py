"""`out/cache`: what is in it, who uses it, and trimming it.

embeddings/<key>/        vectors by encoder            (vector_cache)
homology/<key>.parquet   finished searches             (shared.homology)
uniprot/<key>.jsonl      fetched texts                 (text.cache)
<name>-<version>/        generated data sets           (data.datasets)

Everything is content-keyed, so that whatever is removed is made again. A run holds the cache's lock
shared from before it looks at the cache until it ends; trimming takes it alone, or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import TryAgain, UsageError, from_os_error

LOCK = ".lock"
TRASH = ".trash-"
KINDS = ("embeddings", "homology", "uniprot")  # folders whose members are entries
GENERATED = "dataset.json"  # a generated data set has one
DAY_S = 86_400.0
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that is kept or removed whole."""

    path: Path
    kind: str
    size: int  # bytes
    used: float  # when it was last written or read, seconds since 1970
    needed_by: str | None  # a run whose inputs are in it


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What a trim removed, or would remove."""

    removed: tuple[Entry, ...]
    kept: tuple[Entry, ...]
    leftovers: int  # of killed processes, removed too
    dry_run: bool

    def to_json(self, cache: Path) -> dict[str, Any]:
        """Plain values, paths relative to the cache."""

        def plain(entry: Entry) -> dict[str, Any]:
            relative = entry.path.relative_to(cache).as_posix()
            return {"entry": relative, "kind": entry.kind, "bytes": entry.size, "needed_by": entry.needed_by}

        return {
            "dry_run": self.dry_run,
            "removed": [plain(entry) for entry in self.removed],
            "kept": [plain(entry) for entry in self.kept],
            "removed_bytes": sum(entry.size for entry in self.removed),
            "kept_bytes": sum(entry.size for entry in self.kept),
            "leftovers": self.leftovers,
        }


@contextlib.contextmanager
def in_use(cache: Path) -> Iterator[None]:
    """Keep the cache from being trimmed; any number of processes at once.

    Where the lock cannot be written nothing can be removed either, and there is none.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = os.open(cache / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    handle = os.open(cache / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise TryAgain("a run uses the cache", where=str(cache), remedy="Trim it when the run has ended") from error
    finally:
        os.close(handle)


def trim(
    cache: Path,
    *,
    max_age_s: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    now: float | None = None,
) -> Trimmed:
    """Remove what was not used for long, then the longest unused until the rest is small enough.

    An entry that holds inputs of a run under `out/` stays, whatever its age and size.

    Args:
        cache: `<paths.out>/cache`.
        max_age_s: seconds since the last use; None keeps any age.
        max_bytes: of all entries together; None keeps any size.
        dry_run: only say what would go.
        now: seconds since 1970; for tests.

    Raises:
        TryAgain: a run uses the cache.
        CannotWrite: an entry cannot be removed.
    """
    if not cache.is_dir():
        return Trimmed((), (), 0, dry_run)
    try:
        with contextlib.nullcontext() if dry_run else _alone(cache):
            found = sorted(entries(cache), key=lambda entry: (entry.used, entry.path))
            gone = _chosen(found, max_age_s, max_bytes, time.time() if now is None else now)
            dead = leftovers(cache)
            if not dry_run:
                for path in [entry.path for entry in gone] + dead:
                    _remove(cache, path)
    except OSError as error:
        raise from_os_error(error, str(error.filename or cache)) from error
    return Trimmed(tuple(gone), tuple(entry for entry in found if entry not in gone), len(dead), dry_run)


def entries(cache: Path) -> Iterator[Entry]:
    """Everything in the cache that this page knows; the rest (a store's cut transfers) is its owner's."""
    needed = inputs_of_runs(cache)
    for kind in KINDS:
        for path in sorted((cache / kind).glob("*")) if (cache / kind).is_dir() else ():
            if not _is_leftover(path):
                yield _entry(path, kind, needed)
    for path in sorted(cache.iterdir()):
        if path.name not in KINDS and (path / GENERATED).is_file() and not _is_leftover(path):
            yield _entry(path, "generated", needed)


def leftovers(cache: Path) -> list[Path]:
    """What killed processes left: half-generated data sets, scratch folders, half-removed entries."""
    folders = [cache, *(cache / kind for kind in KINDS)]
    return [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if _is_leftover(path)]


def inputs_of_runs(cache: Path) -> dict[Path, str]:
    """Files in the cache that a run's config names -> the run's folder name; evaluating it reads them again."""
    found: dict[Path, str] = {}
    root = cache.resolve()
    for config in sorted(cache.parent.glob("*/config_resolved.json")):
        try:
            data = json.loads(config.read_bytes())["data"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a run's
        for value in data.values():
            if isinstance(value, str) and (path := Path(value).resolve()).is_relative_to(root):
                found[path] = config.parent.name
    return found


def _is_leftover(path: Path) -> bool:
    return (path.name.startswith(".") and path.name != LOCK) or path.name.startswith("scratch-")


def _entry(path: Path, kind: str, needed: dict[Path, str]) -> Entry:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    # Access times are a day coarse where the disk is mounted with relatime; ages are counted in days.
    used = max((max(s.st_mtime, s.st_atime) for s in stats), default=path.stat().st_mtime)
    run = next((name for file, name in needed.items() if file.is_relative_to(path.resolve())), None)
    return Entry(path, kind, sum(s.st_size for s in stats), used, run)


def _chosen(found: list[Entry], max_age_s: float | None, max_bytes: int | None, now: float) -> list[Entry]:
    free = [entry for entry in found if entry.needed_by is None]
    gone = [entry for entry in free if max_age_s is not None and now - entry.used > max_age_s]
    total = sum(entry.size for entry in found) - sum(entry.size for entry in gone)
    for entry in free:
        if max_bytes is None or total <= max_bytes:
            break
        if entry not in gone:
            gone.append(entry)
            total -= entry.size
    return gone


def _remove(cache: Path, path: Path) -> None:
    """Rename, then delete: a kill in between leaves nothing that looks like an entry."""
    trash = cache / f"{TRASH}{uuid.uuid4().hex}"
    path.rename(trash)
    if trash.is_dir():
        shutil.rmtree(trash)
    else:
        trash.unlink()


def parse_age(text: str) -> float:
    """`30d`, `12h` -> seconds.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dh])", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no age", where="--older-than", remedy="For example 30d or 12h")
    return float(match[1]) * (DAY_S if match[2] == "d" else 3600.0)


def parse_size(text: str) -> int:
    """`20GB`, `500MB`, `1000` -> bytes, in powers of 1000.

    Raises:
        UsageError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", text.strip().upper())
    if match is None:
        raise UsageError(f"{text!r} is no size", where="--max-size", remedy="For example 20GB")
    return int(float(match[1]) * UNITS[match[2] or ""])
