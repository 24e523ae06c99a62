"""What clients and a watcher saw, and whether a queue that keeps its promises could have shown it.

Source of the method: K. Kingsbury, Jepsen: record every call with its outcome, of which "unknown" is one, and
check the history afterwards.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from services.xai_worker.folder import SEAL, read_complete, sweep_staging
from services.xai_worker.queue.base import JobQueue, JobRecord, JobState, StoreDown, Submission

RANK = {JobState.QUEUED: 0, JobState.RUNNING: 1, JobState.SUCCEEDED: 2, JobState.FAILED: 2, JobState.CANCELLED: 2}


RUN_ID = "run"


def asked(key: str | None = None, **request: object) -> Submission:
    """A submission for the light child, which takes its orders from the request."""
    return Submission(
        run_id=RUN_ID,
        manifest=f"{RUN_ID}/manifest.json",
        request=request,
        owner="chaos",
        fingerprint=str(sorted(request.items())),
        idempotency_key=key,
    )


@dataclass
class History:
    """Filled by many threads; read when they have ended."""

    bound: int
    acknowledged: dict[str, str] = field(default_factory=dict)  # job -> key
    keys: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # key -> jobs it was answered with
    cancels: set[str] = field(default_factory=set)  # jobs whose cancellation was acknowledged
    outcomes: Counter[str] = field(default_factory=Counter)
    seen: dict[str, JobRecord] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)  # job -> what its published folder is
    broken: list[str] = field(default_factory=list)
    most_waiting: int = 0
    looks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    # One look at a time, from its first read to its last comparison: the watcher and `settle` look at once, and what
    # one read before the other's newer reading would seem to go back in time.
    looking: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, key: str, job_id: str) -> None:
        """The service acknowledged a job under a key."""
        with self.lock:
            self.acknowledged[job_id] = key
            self.keys[key].add(job_id)

    def unknown(self, what: str) -> None:
        """A call whose outcome nobody knows: either is allowed."""
        with self.lock:
            self.outcomes[what] += 1

    def look(self, queue: JobQueue, out: Path) -> None:
        """Compare what the queue and the volume say now with what they said before."""
        with self.looking:
            self._look(queue, out)

    def _look(self, queue: JobQueue, out: Path) -> None:
        try:
            waiting = queue.stats().waiting
            jobs = [queue.get(job_id) for job_id in list(self.acknowledged)]
        except StoreDown:
            return
        self.looks += 1
        self.most_waiting = max(self.most_waiting, waiting)
        if waiting > self.bound:
            self.broken.append(f"{waiting} jobs wait, the bound is {self.bound}")
        for job in jobs:
            self._compare(job)
            self._folder(job, out)

    def _compare(self, job: JobRecord) -> None:
        before = self.seen.get(job.id)
        if before is not None:
            then, now = (before.round, RANK[before.state]), (job.round, RANK[job.state])
            if now < then or (before.state.final and then == now and job.state != before.state):
                self.broken.append(f"{job.id} went from {before.state} to {job.state}")
            if job.attempt < before.attempt:
                self.broken.append(f"{job.id} went from attempt {before.attempt} to {job.attempt}")
        self.seen[job.id] = job

    def _folder(self, job: JobRecord, out: Path) -> None:
        final = out / job.run_id / "xai" / job.id
        if not final.exists() or (final / SEAL).exists():
            return
        try:
            found = f"inode {final.stat().st_ino}, sha256 {folder_digest(final)}"
        except FileNotFoundError:
            return
        before = self.folders.setdefault(job.id, found)
        if before != found:
            self.broken.append(f"the result of {job.id} was {before} and is {found}")

    def check(self, queue: JobQueue, out: Path, audit: Path | None = None) -> Verdict:
        """The verdict, when all is quiet."""
        self.look(queue, out)
        verdict = Verdict(len(self.acknowledged), broken=list(self.broken))
        for key, jobs in self.keys.items():
            if len(jobs) > 1:
                verdict.broken.append(f"key {key} gave {sorted(jobs)}")
        for job_id in self.acknowledged:
            job = queue.get(job_id)
            verdict.states[job.state] += 1
            complete = read_complete(out / job.run_id / "xai" / job.id) is not None
            if not job.state.final:
                verdict.lost.append(f"{job_id} is {job.state}, attempt {job.attempt}, {job.error}")
            elif complete != (job.state is JobState.SUCCEEDED):
                verdict.broken.append(f"{job_id} is {job.state}, and its result is {'' if complete else 'not '}there")
            kinds = [event.kind for event in queue.events(job_id, limit=10_000)]
            if kinds[-1] != job.state or kinds.count("queued") != job.round:
                verdict.broken.append(f"{job_id} is {job.state} in round {job.round}, and its events are {kinds}")
        for job_id in self.cancels & self.acknowledged.keys():
            job = queue.get(job_id)
            if job.state is JobState.CANCELLED and (out / job.run_id / "xai" / job_id / "result.json").exists():
                verdict.broken.append(f"{job_id} was cancelled and published")
        if audit is not None and audit.exists():
            lines = [json.loads(line) for line in audit.read_text().splitlines()]
            renamed = Counter(line["job"] for line in lines if line["kind"] == "renamed")
            verdict.twice = [job_id for job_id, count in renamed.items() if count > 1]
            begun = Counter(line["job"] for line in lines if line["kind"] == "begin")
            verdict.run_again = sum(count > 1 for count in begun.values())
        # What a child left that was killed after its job had ended goes with the workers' next sweep, which is not due yet.
        for results in out.glob("*/xai"):
            sweep_staging(results, older_than_s=0)
        left = [str(path) for path in out.glob("*/xai/.*")]
        if left:
            verdict.broken.append(f"left behind: {left}")
        return verdict


@dataclass
class Verdict:
    """What the history proves."""

    acknowledged: int
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    states: Counter[JobState] = field(default_factory=Counter)
    run_again: int = 0

    def hold(self) -> None:
        """Fail with everything that is wrong."""
        wrong = [f"lost: {item}" for item in self.lost]
        wrong += [f"published twice: {item}" for item in self.twice]
        wrong += self.broken
        assert not wrong, "\n".join(wrong)


def folder_digest(folder: Path) -> str:
    """One hash over every file of a result."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def settle(history: History, queue: JobQueue, out: Path, timeout_s: float) -> None:
    """Look until every acknowledged job has ended, or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        history.look(queue, out)
        if all(
            (job := history.seen.get(job_id)) is not None and job.state.final for job_id in list(history.acknowledged)
        ):
            return
        time.sleep(0.2)
