"""How long a run's proteins are, read by a process of its own that may take little memory and time.

The tables are compressed, and what a small file unpacks to is known only afterwards: a bomb in it ends this process,
not the service. `python -m services.xai_worker.lengths FOLDER SHA256...` prints {part: {id: residues}}.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from shared.errors import IntegrityError

PARTS = ("test", "train")
MEMORY_BYTES = 2 << 30
TIMEOUT_S = 60
KEPT_RUNS = 8
Lengths = Mapping[str, Mapping[str, int]]


def table(part: str) -> str:
    """Run-relative path of a part's sequences."""
    return f"parsed/{part}_seq.feather"


_found: OrderedDict[tuple[str, ...], Lengths] = OrderedDict()
_lock = threading.Lock()


def lengths_of(folder: Path, sha256: Mapping[str, str]) -> Lengths:
    """Part -> protein -> residues; kept by the tables' hashes, so that one process serves many requests.

    Args:
        folder: the run.
        sha256: part -> what its table must hash to.

    Raises:
        IntegrityError: a table is not what its hash says, or cannot be read within the limits.
    """
    key = tuple(sha256[part] for part in PARTS)
    with _lock:
        if key not in _found:
            _found[key] = _read_apart(folder, key)
            while len(_found) > KEPT_RUNS:
                _found.popitem(last=False)
        _found.move_to_end(key)
        return _found[key]


def _read_apart(folder: Path, sha256: tuple[str, ...]) -> Lengths:
    command = [sys.executable, "-m", __name__, str(folder.absolute()), *sha256]
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_S, check=True, env=environment, stdin=subprocess.DEVNULL
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise IntegrityError("the sequence tables cannot be read, or are not what their hashes say") from error
    found: Lengths = json.loads(done.stdout)
    return found


def main(folder: Path, sha256: list[str]) -> None:
    """Check, read and print; any exception ends the process with its traceback."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S))
    import pyarrow.compute as pc  # noqa: PLC0415 - under the limits from its first byte
    from pyarrow import feather  # noqa: PLC0415

    from shared.digests import sha256_file  # noqa: PLC0415

    found = {}
    for part, expected in zip(PARTS, sha256, strict=True):
        path = folder / table(part)
        if path.is_symlink() or sha256_file(path) != expected:
            raise IntegrityError(f"{table(part)} changed")
        rows = feather.read_table(path, columns=["id", "sequence"])
        residues = pc.utf8_length(rows["sequence"]).to_pylist()
        found[part] = dict(zip(rows["id"].to_pylist(), residues, strict=True))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
