"""Hold the locks to their inputs: `make locks-check`.

Says what is wrong, one line each, and ends with 1, when an input changed without its lock, a lock was edited by hand,
a lock does not hold what its input asks for, or a conda package's dependency is missing from its lock.
`--write .txt .yml` records the present inputs of the locks with these suffixes, after they were solved.
"""

from __future__ import annotations

import json
import re
import sys
from hashlib import sha256
from pathlib import Path

import yaml

ENVS = Path(__file__).resolve().parent
RECORD = "locks.json"
INPUTS = {
    **{f"{name}.lock.yml": (f"{name}.yml", "dev.yml") for name in ("train", "xai", "train-cuda", "xai-cuda")},
    "pip/train.txt": ("pip/train.in",),
    "pip/xai.txt": ("pip/xai.in",),
    "pip/dev.txt": ("pip/dev.in", "pip/train.in", "pip/xai.in"),
}
COMPOSE = {"TRAIN_LOCK_SHA256": "train.lock.yml", "XAI_LOCK_SHA256": "xai.lock.yml"}  # defaults in compose.yaml
BY_VERSION = {"torch"}  # installed by version: its wheels differ between machines, so it is in no hashed file
VIRTUAL = "__"  # properties of the machine, such as __glibc
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def normalise(name: str) -> str:
    """PEP 503 spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def digest(path: Path) -> str:
    """sha256 of a file; of a missing one, a word that equals none."""
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def present(envs: Path) -> dict[str, dict[str, str]]:
    """Lock -> {file: sha256} of itself and of its inputs."""
    return {lock: {name: digest(envs / name) for name in (lock, *inputs)} for lock, inputs in INPUTS.items()}


def problems(envs: Path = ENVS) -> list[str]:
    """What is wrong with the locks, one line each."""
    found = []
    recorded = json.loads((envs / RECORD).read_text("utf-8"))
    for lock, files in present(envs).items():
        for name, value in files.items():
            if recorded.get(lock, {}).get(name) != value:
                what = "was edited by hand" if name == lock else f"is older than its input {name}"
                found.append(f"{lock} {what}; run make relock")
        if "missing" not in files.values():
            found += conda_problems(envs, lock) if lock.endswith(".yml") else pip_problems(envs, lock)
    return found + compose_problems(envs)


def conda_problems(envs: Path, lock: str) -> list[str]:
    """Asked for and not locked, depended on and not locked, or without a hash."""
    packages = yaml.load((envs / lock).read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["package"]  # noqa: S506 - safe
    names = {package["name"] for package in packages}
    found = []
    for source in INPUTS[lock]:
        for asked in yaml.safe_load((envs / source).read_text("utf-8"))["dependencies"]:
            name = NAME.match(asked)
            if name is None or name[0] not in names:
                found.append(f"{lock}: {source} asks for {asked}, which is not locked")
    for package in packages:
        if len(package["hash"].get("sha256", "")) != 64:
            found.append(f"{lock}: {package['name']} has no sha256")
        missing = [name for name in package["dependencies"] if name not in names and not name.startswith(VIRTUAL)]
        found += [f"{lock}: {package['name']} needs {name}, which is not locked" for name in missing]
    return found


def compose_of(envs: Path) -> Path:
    """compose.yaml beside the folder of locks."""
    return envs.parent / "compose.yaml"


def compose_problems(envs: Path) -> list[str]:
    """A plain `docker compose build` hands over the hash that stands in compose.yaml."""
    text = compose_of(envs).read_text("utf-8")
    return [
        f"compose.yaml: the default of {variable} is not the sha256 of {lock}; run make relock"
        for variable, lock in COMPOSE.items()
        if f"${{{variable}:-{digest(envs / lock)}}}" not in text
    ]


def write_compose(envs: Path) -> None:
    """Bring the defaults up to date."""
    text = compose_of(envs).read_text("utf-8")
    for variable, lock in COMPOSE.items():
        text = re.sub(rf"\$\{{{variable}:-[0-9a-f]*\}}", f"${{{variable}:-{digest(envs / lock)}}}", text)
    compose_of(envs).write_text(text, "utf-8")


def pip_problems(envs: Path, lock: str) -> list[str]:
    """Asked for and not pinned, or pinned without a hash."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", (envs / lock).read_text("utf-8"))
    pinned = {normalise(name[0]): block for block in blocks if (name := NAME.match(block))}
    found = [f"{lock}: {name} has no hash" for name, block in pinned.items() if "--hash=sha256:" not in block]
    for source in INPUTS[lock]:
        for line in (envs / source).read_text("utf-8").splitlines():
            name = NAME.match(line)
            if name and normalise(name[0]) not in pinned.keys() | BY_VERSION:
                found.append(f"{lock}: {source} asks for {line}, which is not pinned")
    return found


def main(arguments: list[str]) -> int:
    """0 when everything agrees."""
    if arguments[:1] == ["--write"]:
        recorded = json.loads((ENVS / RECORD).read_text("utf-8")) if (ENVS / RECORD).is_file() else {}
        recorded |= {lock: files for lock, files in present(ENVS).items() if lock.endswith(tuple(arguments[1:]))}
        (ENVS / RECORD).write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", "utf-8")
        write_compose(ENVS)
        return 0
    found = problems()
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    if not found:
        print(f"{len(INPUTS)} locks match their inputs")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
