"""Many proteins: processes that explain one protein at a time, and finished proteins that are kept.

Children write parts (`parts.py`); only the parent writes the result folder, in the order of the request, so that the
bytes do not depend on how many processes there are.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.xai_worker.documents import Scan
from services.xai_worker.exports import MutationTable
from services.xai_worker.job import Job
from services.xai_worker.parts import Made, Parts
from services.xai_worker.result import round_significant
from services.xai_worker.targets import Target
from shared.digests import digest_of, sha256_file
from shared.errors import TryAgain
from shared.progress import progress

PARENT_CHECK_S = 1.0
Opener = Callable[[], tuple[Job, Parts]]


@dataclass(frozen=True, slots=True)
class Workers:
    """How many processes, and what each one opens once; `opener` must be picklable by our own processes."""

    count: int = 1
    opener: Opener | None = None


def code_digest(batch_halvings: int = 0) -> str:
    """Digest of the code that makes explanations: a part made by other code, or in other batches, does not count."""
    root = Path(__file__).parent
    own = [*root.glob("*.py"), *root.glob("explainers/*.py"), *root.glob("evidence/*.py"), *root.glob("gates/*.py")]
    return digest_of(
        "code", sorted((path.relative_to(root).as_posix(), sha256_file(path)) for path in own), batch_halvings
    )


def finish_all(job: Job, parts: Parts, workers: Workers) -> None:
    """Make every missing part. A killed batch has lost at most the proteins that were under way.

    Raises:
        TryAgain: a child process died (out of memory, or killed); finished proteins are kept.
    """
    missing = [target for target in job.targets if not parts.has(target.protein)]
    done = len(job.targets) - len(missing)
    if done:
        job.log.event("resumed", finished=done, left=len(missing))
    with progress("proteins", len(job.targets), "protein", done=done) as bar:
        for _ in _made(job, parts, missing, workers):
            bar.advance()


def read_all(job: Job, parts: Parts) -> Iterator[tuple[Target, Made]]:
    """The finished proteins in the order of the request."""
    for target in job.targets:
        made = parts.get(target.protein)
        if made is None:
            raise TryAgain(
                f"the finished part of {target.protein} has gone or changed",
                where=str(parts.path(target.protein)),
                remedy="Run the same command again",
            )
        yield target, made


def explain_one(job: Job, parts: Parts, target: Target) -> None:
    """Explain one protein and keep it."""
    found = job.explain(target)
    parts.put(target.protein, Made(found.documents, [_table_of(scan) for scan in found.scans]))


def _table_of(scan: Scan) -> MutationTable:
    """The scanned substitutions as rows; the residue itself and what was not scanned have none."""
    own, values = scan.explanation, scan.values
    rows = [
        (position, residue, substitution, round_significant(float(values[position - 1, column])))
        for position, residue in enumerate(own.sequence, start=1)
        for column, substitution in enumerate(own.alphabet)
        if substitution != residue and not np.isnan(values[position - 1, column])
    ]
    return MutationTable(own.protein, own.term, own.model, own.method, rows)


def _made(job: Job, parts: Parts, missing: Sequence[Target], workers: Workers) -> Iterator[None]:
    if workers.count <= 1 or workers.opener is None or len(missing) <= 1:
        for target in missing:
            explain_one(job, parts, target)
            yield
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    count = min(workers.count, len(missing))
    with ProcessPoolExecutor(count, context, initializer=_open, initargs=(workers.opener, os.getpid())) as pool:
        futures: list[Future[None]] = [pool.submit(_explain, target.protein) for target in missing]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise TryAgain(
                "a process died while it explained a protein",
                remedy="Run the same command again: finished proteins are kept; use fewer --jobs if memory ran out",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


# One job per child process, opened once: weights are loaded once, not per protein.
_opened: dict[str, tuple[Job, Parts, dict[str, Target]]] = {}


def _open(opener: Opener, parent: int) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    job, parts = opener()
    _opened["job"] = (job, parts, {target.protein: target for target in job.targets})


def _explain(protein: str) -> None:
    job, parts, targets = _opened["job"]
    explain_one(job, parts, targets[protein])


def _end_with(parent: int) -> None:
    """A child whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_S)
    os._exit(1)
