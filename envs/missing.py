"""Print the hashed requirements that a conda lock has no record of: what pip must add to that environment."""

from __future__ import annotations

import re
import sys
from pathlib import Path

NAMES = {
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "pyarrow-core": "pyarrow",
    "fastapi-core": "fastapi",
    "brotli-python": "brotli",
}


def normalise(name: str) -> str:
    """PEP 503 spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(lock: str, requirements: str) -> None:
    """Filter `requirements` by the package names in `lock`."""
    # A conda-lock file lists `- name: x` per package; a full YAML parser may not be installed yet.
    locked = {
        normalise(NAMES.get(n, n)) for n in re.findall(r"^- name: (\S+)$", Path(lock).read_text("utf-8"), re.MULTILINE)
    }
    for block in re.split(r"\n(?=[A-Za-z0-9])", Path(requirements).read_text("utf-8")):
        name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", block)
        if name and normalise(name[0]) not in locked:
            print(block)


if __name__ == "__main__":
    main(*sys.argv[1:3])
