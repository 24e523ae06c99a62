"""Gather the packages of one hashed requirement file in a folder, for the environment image.

    python envs/env_image.py train FOLDER

What the running environment holds in the locked version is linked from there; the rest is installed by pip with
its hash checked. Torch is in no hashed file and is taken as it is. Nothing here writes into the environment.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

ENVS = Path(__file__).resolve().parent
PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")


def normalise(name: str) -> str:
    """PEP 503 spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def link(distribution: importlib.metadata.Distribution, target: Path) -> None:
    """Link or copy the distribution's files below site-packages; scripts stay behind."""
    for file in distribution.files or []:
        if ".." in file.parts or file.suffix == ".pyc":
            continue
        source, place = Path(str(distribution.locate_file(file))), target / file
        if not source.is_file():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, place)
        except OSError:
            shutil.copy2(source, place)


def main(name: str, folder: Path) -> None:
    """Fill `folder` with site-packages/ and env_lock.json."""
    requirements = ENVS / "pip" / f"{name}.txt"
    text = requirements.read_text("utf-8")
    installed = {normalise(d.metadata["Name"]): d for d in importlib.metadata.distributions() if d.metadata["Name"]}
    target = folder / "site-packages"
    target.mkdir(parents=True)
    rest = []
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        pin = PIN.match(block)
        if pin is None:
            continue
        found = installed.get(normalise(pin[1]))
        if found is not None and found.version == pin[2]:
            link(found, target)
        else:
            rest.append(block)
    if rest:
        wanted = folder / "rest.txt"
        wanted.write_text("\n".join(rest) + "\n", "utf-8")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run(
            [*pip, "--require-hashes", "--no-compile", "--target", str(target), "-r", str(wanted)], check=True
        )
    for extra in ("torch", *(n for n in installed if n.startswith("nvidia-") or n == "triton")):
        link(installed[extra], target)
    record = {"name": name, "kind": "pip", "sha256": sha256(requirements.read_bytes()).hexdigest()}
    (folder / "env_lock.json").write_text(json.dumps(record) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
