"""Refuse what does not belong into git: weights, arrays, pickles, large files and so large logs.

Run by pre-commit with the staged paths, and by a test with all tracked ones. docs/artifacts.md says
where such files live instead.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

FORBIDDEN_SUFFIXES = {".pt", ".pth", ".bin", ".safetensors", ".npy", ".npz", ".pkl", ".pickle", ".joblib", ".h5"}
MAX_BYTES = 2 << 20  # of any file; logs above 10 MB are a case of it
DECLARED_EXCEPTIONS: Mapping[str, str] = {}  # repository path -> sha256 of the one content that may be committed


def problems(paths: Iterable[Path], exceptions: Mapping[str, str] = DECLARED_EXCEPTIONS) -> list[str]:
    """One line per file that may not be committed; paths are relative to the repository's root."""
    return [line for path in paths if path.is_file() and (line := problem(path, exceptions.get(path.as_posix())))]


def problem(path: Path, declared: str | None) -> str | None:
    """Why a file may not be committed, or None; `declared` is its sha256 where it is an exception."""
    if declared is not None:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        return None if found == declared else f"{path}: declared with sha256 {declared}, found {found}"
    if refused := FORBIDDEN_SUFFIXES.intersection(path.suffixes):
        return f"{path}: {min(refused)} files live in the store, not in git"
    size = path.stat().st_size
    return f"{path}: {size} bytes, at most {MAX_BYTES}" if size > MAX_BYTES else None


if __name__ == "__main__":
    lines = problems(Path(argument) for argument in sys.argv[1:])
    print("\n".join(lines))
    raise SystemExit(1 if lines else 0)
