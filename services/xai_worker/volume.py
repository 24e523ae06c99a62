"""The shared volume as the service sees it: nothing outside it, nothing through a link, nothing but plain files."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from shared.errors import MissingInput

RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MANIFEST = "manifest.json"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: a pipe that nobody writes to would otherwise hold a thread for ever.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class OutOfSight(MissingInput):
    """A file that is not there, not plain, or reached through a link; the text names it by its path on the volume."""

    code = "out_of_sight"


class Volume:
    """Opens files below one folder by walking from it component by component, so that no link is ever followed."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run_of(self, name: str) -> str:
        """The run that a name stands for: itself, or what the link beside the runs (`latest`) points at.

        Raises:
            OutOfSight: not a name of a run, or a link that leads elsewhere.
        """
        if not RUN_ID.fullmatch(name):
            raise OutOfSight(f"{name[:200]!r} is not a run id")
        try:
            target = str((self.root / name).readlink())
        except OSError:  # not a link; whether it is there shows when it is opened
            return name
        if not RUN_ID.fullmatch(target):
            raise OutOfSight(f"{name} does not lead to a run on the volume")
        return target

    @contextmanager
    def open(self, path: str) -> Iterator[int]:
        """A descriptor of a plain file below the root; `path` has forward slashes.

        Raises:
            OutOfSight: there is none.
        """
        parts = path.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise OutOfSight(f"{path[:200]!r} is not a path on the volume")
        descriptor = self._walk(parts, path)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OutOfSight(f"{path} is not a plain file")
            yield descriptor
        finally:
            os.close(descriptor)

    def read(self, path: str, limit: int) -> bytes:
        """The whole file, at most `limit` bytes and one more, so that the caller sees what is too large."""
        with self.open(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(limit + 1)

    def stamp(self, path: str) -> tuple[int, int, int]:
        """(inode, size, time of change in ns): equal stamps mean that the file was not written between."""
        with self.open(path) as descriptor:
            found = os.fstat(descriptor)
        return found.st_ino, found.st_size, found.st_mtime_ns

    def size(self, path: str) -> int:
        """Bytes of a file, without reading it."""
        return self.stamp(path)[1]

    def _walk(self, parts: list[str], path: str) -> int:
        try:
            folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise OutOfSight("the volume is not there") from error
        try:
            for part in parts[:-1]:
                inner = os.open(part, _FOLDER, dir_fd=folder)
                os.close(folder)
                folder = inner
            return os.open(parts[-1], _FILE, dir_fd=folder)
        except OSError as error:
            # With O_NOFOLLOW a link to a folder is ENOTDIR, one to a file ELOOP.
            why = {errno.ENOENT: "is missing", errno.ELOOP: "is a link", errno.EACCES: "may not be read"}
            raise OutOfSight(f"{path[:200]} {why.get(error.errno or 0, 'cannot be opened')}") from error
        finally:
            os.close(folder)


def run_named(manifest: str, volume_name: str) -> str:
    """The run of a manifest path as people type it: `out/RUN/manifest.json` or `RUN/manifest.json`.

    Raises:
        OutOfSight: another path.
    """
    parts = PurePosixPath(manifest).parts
    if len(parts) == 3 and parts[0] == volume_name:
        parts = parts[1:]
    if len(parts) != 2 or parts[1] != MANIFEST:
        raise OutOfSight(f"{manifest[:200]!r} is not {volume_name}/<run_id>/{MANIFEST}")
    return parts[0]
