"""Running attempts: begin, start the child, listen, decide, end. Called by the engine, one thread per job."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from services.xai_worker.child import ChildTask
from services.xai_worker.folder import clear_staging, read_complete, seal, unseal
from services.xai_worker.queue.backoff import delay_s
from services.xai_worker.queue.base import JobError, JobState, StoreDown
from services.xai_worker.queue.crash import crash_point
from services.xai_worker.queue.engine import entry_id
from services.xai_worker.queue.ledger import WORKER_DIED, Claim, Ledger, Standing
from services.xai_worker.settings import WorkerSettings
from services.xai_worker.tracing import span
from services.xai_worker.worker.housekeeping import result_folder
from services.xai_worker.worker.lease import Lease
from services.xai_worker.worker.process import CHILD, ChildProcess
from shared.errors import GowhyError

LOG = logging.getLogger(__name__)
LISTEN_S = 0.1
LOOK_S = 0.5  # how often a running job's row is looked at, and progress is written
MAX_STEPS = 200  # progress steps of one write; of more, the newest
PATIENCE_S = 600.0  # how long an outcome waits for the database
Value = TypeVar("Value")


class LeaseLost(Exception):
    """Others may have taken this worker for dead; it must not touch the job any more."""


@dataclass
class Outcome:
    """How a child ended. Without an error it published, or has nothing to say."""

    error: JobError | None = None
    out_of_memory: bool = False
    cancelled: bool = False
    handed_back: bool = False
    lost: bool = False  # the job belongs to somebody else by now


@dataclass
class Attempts:
    """Runs jobs for one worker.

    Args:
        ledger: the jobs.
        lease: without it nothing is begun or published.
        settings: times, limits, the volume.
        command: the child; tests use a cheap one.
    """

    ledger: Ledger
    lease: Lease
    settings: WorkerSettings
    command: Sequence[str] = CHILD
    draining: threading.Event = field(default_factory=threading.Event)  # begin nothing
    handing_back: threading.Event = field(default_factory=threading.Event)  # end what runs
    running: set[str] = field(default_factory=set)  # entries
    last_busy: float = field(default_factory=time.monotonic)
    _children: set[ChildProcess] = field(default_factory=set)

    def run(self, job_id: str, dispatch: int) -> None:
        """Run one entry. Whatever happened before, it leaves the job ended or with a further entry."""
        entry = entry_id(job_id, dispatch)
        self.running.add(entry)
        try:
            self._run(job_id, dispatch)
        finally:
            self.running.discard(entry)
            self.last_busy = time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds since something ran; 0 while something does."""
        return 0.0 if self.running else time.monotonic() - self.last_busy

    def _run(self, job_id: str, dispatch: int) -> None:
        if not self.lease.alive:
            raise LeaseLost(f"{job_id}.{dispatch} is left to others")  # the entry ends, and housekeeping finds that
        found = self._patiently(lambda: self.ledger.standing(job_id, dispatch))
        if found is None:
            return
        if self.draining.is_set():
            self._patiently(lambda: self.ledger.dispatch_again(job_id, dispatch))
            return
        if self._ended_already(found):
            return
        try:
            unseal(self._final(found))
        except GowhyError as error:
            self._end(found, JobState.FAILED, JobError(error.code, "the result has no place on the volume"))
            return
        claim = self._patiently(lambda: self.ledger.claim(found))
        if claim is None:
            # It changed while we looked: a request to cancel, for example. Look again.
            self._patiently(lambda: self.ledger.dispatch_again(job_id, dispatch))
            return
        LOG.info("attempt", extra={"fields": _ids(claim)})
        with span("attempt", claim.job.traceparent, job_id=job_id, attempt=claim.job.attempt) as traceparent:
            outcome = self._supervise(claim, traceparent)
        clear_staging(self._final(claim))
        self._conclude(claim, outcome)

    def abandon(self) -> None:
        """Kill every child at once; nothing is written."""
        for child in list(self._children):
            child.kill()

    def _ended_already(self, found: Standing) -> bool:
        """End a job that needs no further attempt."""
        job = found.job
        failures = job.failures + int(found.interrupted)
        if read_complete(self._final(found)) is not None:
            self._succeed(found)
        elif job.cancel_requested:
            self._end(found, JobState.CANCELLED)
        elif failures >= self.settings.max_attempts:
            error = WORKER_DIED if found.interrupted else job.error or WORKER_DIED
            self._end(found, JobState.FAILED, _given_up(error, failures), failed=found.interrupted)
        else:
            return False
        return True

    def _supervise(self, claim: Claim, traceparent: str | None = None) -> Outcome:
        """Start the child and stay with it until it is gone."""
        child = ChildProcess(replace(self._task(claim), traceparent=traceparent), self.command)
        self._children.add(child)
        try:
            return self._listen(claim, child)
        finally:
            child.kill()
            child.close()
            self._children.discard(child)

    def _listen(self, claim: Claim, child: ChildProcess) -> Outcome:
        deadline = time.monotonic() + self.settings.job_timeout_s
        outcome, said_end, steps, looked = Outcome(), False, [], time.monotonic()
        asked = False
        while True:
            gone = child.ended
            messages = child.last_messages() if gone else child.messages(LISTEN_S)
            for message in messages:
                kind = message.pop("kind")
                if kind == "progress":
                    steps.append(message["step"])
                elif kind == "ready":
                    asked = True
                elif kind == "failed":
                    said_end, outcome.out_of_memory = True, bool(message.pop("out_of_memory"))
                    outcome.error = JobError(**message)
                elif kind == "done":
                    said_end = True
            if asked and (answer := self._may_publish(claim)) is not None:
                child.answer(answer)
                asked = False
            if gone or time.monotonic() - looked >= LOOK_S:
                looked = time.monotonic()
                steps = self._write_progress(claim, steps)
                if not gone and (stopped := self._why_stop(claim, deadline)) is not None:
                    child.stop(self.settings.kill_grace_s)
                    return stopped
            if gone:
                return outcome if said_end else _killed(child)

    def _why_stop(self, claim: Claim, deadline: float) -> Outcome | None:
        """A reason to end a running child."""
        if self.handing_back.is_set():
            return Outcome(handed_back=True)
        if time.monotonic() > deadline:
            text = f"the attempt took longer than {self.settings.job_timeout_s:g} s"
            return Outcome(JobError("timed_out", text, retryable=True))
        try:
            held, cancelled = self.ledger.holds(claim)
        except StoreDown:
            return None  # the job may go on; what it needs the database for waits
        if not held:
            return Outcome(lost=True)
        return Outcome(cancelled=True) if cancelled else None

    def _conclude(self, claim: Claim, outcome: Outcome) -> None:
        """The child is gone: write down what that means."""
        if outcome.lost:
            LOG.warning("the job belongs to another attempt", extra={"fields": _ids(claim)})
        elif read_complete(self._final(claim)) is not None:
            self._succeed(claim)
        elif outcome.handed_back:
            self._patiently(lambda: self.ledger.hand_back(claim))
        elif outcome.cancelled or self._patiently(lambda: self.ledger.holds(claim))[1]:
            self._end(claim, JobState.CANCELLED)
        else:
            self._conclude_failure(claim, outcome)

    def _conclude_failure(self, claim: Claim, outcome: Outcome) -> None:
        error = outcome.error or JobError("no_result", "the attempt ended without a result", retryable=True)
        failures = claim.job.failures + 1
        LOG.warning("attempt failed", extra={"fields": {**_ids(claim), "code": error.code, "reason": error.message}})
        if error.retryable and failures < self.settings.max_attempts:
            wait = delay_s(failures, base_s=self.settings.backoff_base_s, cap_s=self.settings.backoff_cap_s)
            memory = outcome.out_of_memory
            self._patiently(lambda: self.ledger.try_later(claim, error, wait, out_of_memory=memory))
        else:
            self._end(claim, JobState.FAILED, _given_up(error, failures) if error.retryable else error, failed=True)

    def _may_publish(self, claim: Claim) -> bool | None:
        """None while nobody can say: the database is away, or others may have taken us for dead."""
        if not self.lease.alive:
            return None
        try:
            return self.ledger.grant(claim)
        except StoreDown:
            return None

    def _succeed(self, of: Standing | Claim) -> None:
        result = self._final(of).relative_to(self.settings.out).as_posix()
        if self._patiently(lambda: self.ledger.finish(of, JobState.SUCCEEDED, result=result)) is not None:
            LOG.info("succeeded", extra={"fields": {"job_id": of.job.id}})

    def _end(
        self, of: Standing | Claim, state: JobState, error: JobError | None = None, *, failed: bool = False
    ) -> None:
        """End without a result. Where an attempt may still be about to publish, the folder decides who was first."""
        if of.may_have_published:
            if not seal(self._final(of), state.value):
                self._succeed(of)
                return
            crash_point("seal.after_rename")
        if self._patiently(lambda: self.ledger.finish(of, state, error=error, failed=failed)) is not None:
            LOG.info(state.value, extra={"fields": {"job_id": of.job.id, "code": error.code if error else None}})

    def _write_progress(self, claim: Claim, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Write what was heard; what could not be written is kept."""
        if steps:
            try:
                self.ledger.progress(claim, steps[-MAX_STEPS:])
            except StoreDown:
                return steps[-MAX_STEPS:]
        return []

    def _patiently(self, step: Callable[[], Value]) -> Value:
        """Repeat a step while the database is away; each is a compare-and-set, so repeating is safe."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return step()
            except StoreDown:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _task(self, claim: Claim) -> ChildTask:
        job, settings = claim.job, self.settings
        return ChildTask(
            job_id=job.id, attempt=job.attempt, out=str(settings.out.resolve()), manifest=job.manifest,
            manifest_sha256=job.manifest_sha256, request=dict(job.request), device=settings.device,
            threads=settings.threads, env_policy=settings.env_policy, batch_halvings=claim.out_of_memory,
            traceparent=job.traceparent,
        )  # fmt: skip

    def _final(self, of: Standing | Claim) -> Any:
        return result_folder(self.settings.out, of.job.run_id, of.job.id)


def _killed(child: ChildProcess) -> Outcome:
    """It went without a word."""
    if child.ran_out_of_memory:
        return Outcome(JobError("out_of_memory", "the job ran out of memory", retryable=True), out_of_memory=True)
    how = f"killed by signal {child.killed_by}" if child.killed_by else "gone without a word"
    return Outcome(JobError("killed", f"the job's process was {how}", retryable=True))


def _given_up(error: JobError, failures: int) -> JobError:
    return JobError(error.code, f"given up after {failures} failed attempts, the last because {error.message}", True)


def _ids(claim: Claim) -> dict[str, Any]:
    return {"job_id": claim.job.id, "attempt": claim.job.attempt, "request_id": claim.job.request_id}
