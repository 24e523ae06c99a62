"""Refuse what does not belong into git: weights, arrays, pickles, large files, large logs.

Run by pre-commit with the staged paths, and by a test with all tracked ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

FORBIDDEN_SUFFIXES = {".pt", ".pth", ".bin", ".safetensors", ".npy", ".npz", ".pkl", ".joblib", ".h5"}
MAX_BYTES = 2 << 20
DECLARED_EXCEPTIONS: dict[str, str] = {}  # path -> sha256


def problems(paths: list[Path]) -> list[str]:
    """One line per file that may not be committed."""
    found = []
    for path in paths:
        if str(path) in DECLARED_EXCEPTIONS or not path.is_file():
            continue
        if path.suffix in FORBIDDEN_SUFFIXES:
            found.append(f"{path}: {path.suffix} files live in the store, not in git")
        elif path.stat().st_size > MAX_BYTES:
            found.append(f"{path}: {path.stat().st_size} bytes, at most {MAX_BYTES}")
    return found


if __name__ == "__main__":
    lines = problems([Path(argument) for argument in sys.argv[1:]])
    print("\n".join(lines))
    raise SystemExit(1 if lines else 0)
