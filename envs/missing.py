"""Print the hashed requirements that a conda lock does not install: what pip must add to that environment.

Only the lock's category `main` is installed, so a package that is locked for another category alone is pip's to bring.
"""

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
    "python-tzdata": "tzdata",
    "python-xxhash": "xxhash",
}


def normalise(name: str) -> str:
    """PEP 503 spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def conda_names(lock: str) -> set[str]:
    """Distributions that the conda-lock text installs: those of category `main`, which is also the default."""
    # conda-lock writes one `- name: x` block per package; a full YAML parser may not be installed yet.
    found = set()
    for block in re.split(r"^(?=- name: )", lock, flags=re.MULTILINE)[1:]:
        name = re.match(r"- name: (\S+)", block)
        category = re.search(r"^  category: (\S+)$", block, re.MULTILINE)
        if name and (category is None or category[1] == "main"):
            found.add(normalise(NAMES.get(name[1], name[1])))
    return found


def main(lock: str, requirements: str) -> None:
    """Filter `requirements` by what `lock` installs."""
    locked = conda_names(Path(lock).read_text("utf-8"))
    for block in re.split(r"\n(?=[A-Za-z0-9])", Path(requirements).read_text("utf-8")):
        name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", block)
        if name and normalise(name[0]) not in locked:
            print(block)


if __name__ == "__main__":
    main(*sys.argv[1:3])
