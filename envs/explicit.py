"""Print a conda lock as an explicit list (`url#md5`), which conda and mamba install without a solve.

micromamba reads the lock itself; conda and mamba 1 do not. Only category `main` of linux-64 is listed.
Format: https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-environments.html (building identical environments).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def explicit(lock: str) -> list[str]:
    """`url#md5` of each package that the conda-lock text installs, in the lock's order.

    Raises:
        ValueError: a package has no address or no md5.
    """
    # As in missing.py: a YAML parser may not be installed yet.
    lines = []
    for block in re.split(r"^(?=- name: )", lock, flags=re.MULTILINE)[1:]:
        field = dict(re.findall(r"^ +(platform|category|url|md5): (\S+)$", block, re.MULTILINE))
        if field.get("platform") != "linux-64" or field.get("category", "main") != "main":
            continue
        if "url" not in field or "md5" not in field:
            raise ValueError(f"no address or md5 of {block.splitlines()[0].removeprefix('- name: ')}")
        lines.append(f"{field['url']}#{field['md5']}")
    return lines


if __name__ == "__main__":
    print("@EXPLICIT", *explicit(Path(sys.argv[1]).read_text("utf-8")), sep="\n")
