"""Build and find shared libraries with a plain C interface, made by the machine's own compiler at their first use.

They are kept in the user's cache folder, under a name made of the source, the flags and the compiler's version, so that
any number of processes may come at once and a changed source is another file. Without a compiler callers take their
other path; nothing else changes.

`GOWHY_KERNELS` is `off`, or the folder to build into.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from shared import atomic
from shared.digests import digest_of
from shared.errors import GowhyError

COMPILERS = ("g++", "c++", "clang++")
BUILD_SECONDS = 300


def library(source: Path, flags: Sequence[str]) -> tuple[ctypes.CDLL, str] | tuple[None, str]:
    """The library and the digest of what it was built from; or None, and why there is none."""
    where = os.environ.get("GOWHY_KERNELS", "")
    if where == "off":
        return None, "GOWHY_KERNELS is off"
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))), None)
    if compiler is None:
        return None, f"no C++ compiler: none of {', '.join(COMPILERS)} is on PATH"
    try:
        path, digest = build(compiler, source, flags, Path(where) if where else cache_folder())
        return ctypes.CDLL(str(path)), digest
    except (GowhyError, OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return None, f"{compiler} could not build {source.name}: {detail[-500:]}"


def build(compiler: str, source: Path, flags: Sequence[str], folder: Path) -> tuple[Path, str]:
    """Build into `folder`, unless it was done before; the library's path and the digest in its name.

    Raises:
        CannotWrite: the folder cannot be written.
        OSError: the compiler cannot be run.
        subprocess.SubprocessError: it failed, or took minutes.
    """
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    digest = digest_of(source.stem, source.read_text(encoding="utf-8"), list(flags), version)[:16]
    path = folder / f"{source.stem}-{digest}.so"
    if not path.exists():
        with atomic.atomic_path(path) as temporary:
            subprocess.run(
                [compiler, *flags, str(source), "-o", str(temporary)],
                capture_output=True,
                text=True,
                timeout=BUILD_SECONDS,
                check=True,
            )
    return path, digest


def cache_folder() -> Path:
    """The user's own folder; one that others can write, or that cannot be made, is replaced by a private one."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(home) if home else Path.home() / ".cache") / "gowhy" / "kernels"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass  # a locked-down container; RuntimeError: no home folder at all
    return Path(tempfile.mkdtemp(prefix="gowhy-kernels-"))
