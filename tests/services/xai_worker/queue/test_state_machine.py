"""Hypothesis against a small model: submissions, replays, cancels, retries, attempts, kills and restarts in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from services.xai_worker.folder import Gate, MayNotPublish, published, read_complete, seal, unseal, write_result
from services.xai_worker.queue.base import JobError, JobState, QueueFull, WrongState
from services.xai_worker.queue.ledger import Claim, Ledger
from services.xai_worker.queue.opening import open_queue
from services.xai_worker.settings import WorkerSettings
from services.xai_worker.worker.housekeeping import result_folder
from tests.chaos.history import RUN_ID, asked

BOUND, MAX_ATTEMPTS = 3, 3
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # fsync is not what is tested here
LATER = JobError("killed", "it was killed", retryable=True)


@dataclass
class Model:
    """What a job's state must be."""

    state: str = "queued"
    failures: int = 0
    begun: bool = False  # an attempt runs, or its worker died
    cancel: bool = False
    granted: bool = False  # some attempt may still publish
    published: bool = False
    holder: object = None  # the attempt that may change the job


@dataclass(eq=False)
class Running:
    """An attempt that some worker, living or dead, believes to hold."""

    job_id: str
    claim: Claim
    may_publish: bool = False
    ended: bool = field(default=False)


class QueueMachine(RuleBasedStateMachine):
    """Each rule is done to the queue and to the model; the invariants compare."""

    attempts = Bundle("attempts")

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gowhy-machine-", dir=FAST))
        self.settings = WorkerSettings(
            database_url=f"sqlite:///{self.folder / 'q.sqlite3'}", out=self.folder / "out", queue_bound=BOUND
        )
        self.model: dict[str, Model] = {}
        self.keys: dict[str, str] = {}
        self._open()

    def _open(self) -> None:
        self.queue = open_queue(self.settings)
        self.ledger = Ledger(self.queue.database, self.queue.dispatcher)

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            self.queue.close()
            shutil.rmtree(self.folder)

    def final(self, job_id: str) -> Path:
        return result_folder(self.settings.out, RUN_ID, job_id)

    def waiting(self) -> int:
        return sum(model.state == "queued" for model in self.model.values())

    @rule(key=st.sampled_from(["a", "b", "c", "d", "e"]))
    def submit(self, key: str) -> None:
        try:
            accepted = self.queue.submit(asked(key))
        except QueueFull:
            assert key not in self.keys
            assert self.waiting() == BOUND
            return
        assert accepted.replayed == (key in self.keys)
        if accepted.replayed:
            assert accepted.job.id == self.keys[key]
        else:
            assert self.waiting() < BOUND
            self.keys[key] = accepted.job.id
            self.model[accepted.job.id] = Model()

    @precondition(lambda self: self.model)
    @rule(target=attempts, data=st.data())
    def begin(self, data: st.DataObject) -> object:
        """A worker takes a job; one that began before is an interrupted one. It decides as `Attempts` does."""
        job_id = data.draw(st.sampled_from(sorted(self.model)))
        model, found = self.model[job_id], self._standing(job_id)
        if found is None:
            assert model.state not in {"queued", "running"}
            return multiple()
        failures = model.failures + int(model.begun)
        if read_complete(self.final(job_id)) is not None:
            assert self.ledger.finish(found, JobState.SUCCEEDED, result="r") is not None
            model.state = "succeeded"
            return multiple()
        if model.cancel or failures >= MAX_ATTEMPTS:
            self._end(job_id, found, "cancelled" if model.cancel else "failed")
            return multiple()
        unseal(self.final(job_id))
        claim = self.ledger.claim(found)
        assert claim is not None
        assert claim.job.failures == failures
        model.state, model.begun, model.failures = "running", True, failures
        model.holder = Running(job_id, claim)
        return model.holder

    @rule(attempt=attempts)
    def ask(self, attempt: Running) -> None:
        """The child asks for leave to publish."""
        allowed = self.ledger.grant(attempt.claim)
        assert allowed == (self._holds(attempt) and not self.model[attempt.job_id].cancel)
        if allowed:
            attempt.may_publish = self.model[attempt.job_id].granted = True

    @rule(attempt=attempts)
    def publish(self, attempt: Running) -> None:
        """The child renames; perhaps long after its worker died."""
        if not attempt.may_publish or attempt.ended:
            return
        attempt.ended = True
        before = self.model[attempt.job_id].state
        try:
            with published(self.final(attempt.job_id), Gate(attempt.claim.job.attempt, lambda: None)) as staging:
                (staging / "explanations.jsonl").write_text(attempt.job_id)
                write_result(staging, {"status": "complete"})
        except MayNotPublish:
            assert before in {"cancelled", "failed"}
            return
        # A job that had ended without a result never has one.
        assert before in {"queued", "running", "succeeded"}
        self.model[attempt.job_id].published = True

    @rule(attempt=attempts)
    def finish(self, attempt: Running) -> None:
        """The worker says that its child published."""
        if read_complete(self.final(attempt.job_id)) is None:
            return
        held = self._holds(attempt)
        assert (self.ledger.finish(attempt.claim, JobState.SUCCEEDED, result="r") is not None) == held
        if held:
            self.model[attempt.job_id].state = "succeeded"

    @rule(attempt=consumes(attempts))
    def fail(self, attempt: Running) -> None:
        """The child is gone for sure, and what happened may pass."""
        attempt.ended = True
        held, model = self._holds(attempt), self.model[attempt.job_id]
        if read_complete(self.final(attempt.job_id)) is not None:
            return
        assert self.ledger.try_later(attempt.claim, LATER, 0, out_of_memory=False) == held
        if held:
            model.failures, model.begun, model.holder = model.failures + 1, False, None

    @rule(attempt=consumes(attempts))
    def hand_back(self, attempt: Running) -> None:
        """The worker drains; the child is gone."""
        attempt.ended = True
        if read_complete(self.final(attempt.job_id)) is not None:
            return
        held = self._holds(attempt)
        assert self.ledger.hand_back(attempt.claim) == held
        if held:
            self.model[attempt.job_id].begun = False
            self.model[attempt.job_id].holder = None

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.model)))
        model, job = self.model[job_id], self.queue.cancel(job_id)
        if model.state == "queued":
            model.state = "cancelled"
        elif model.state == "running":
            model.cancel = True
            if job.state is JobState.CANCELLED:
                assert not model.begun, "an attempt may still run"
                model.state = "cancelled"

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.model)))
        model = self.model[job_id]
        try:
            self.queue.retry(job_id)
        except WrongState:
            assert model.state not in {"failed", "cancelled"}
            return
        except QueueFull:
            assert self.waiting() == BOUND
            return
        assert model.state in {"failed", "cancelled"}
        self.model[job_id] = Model()

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def adopt(self, data: st.DataObject) -> None:
        """A worker is taken for dead; its job goes to others, and it does not know."""
        job_id = data.draw(st.sampled_from(sorted(self.model)))
        found = self._standing(job_id)
        if found is not None:
            assert self.ledger.dispatch_again(job_id, found.dispatch)
            self.model[job_id].holder = None

    @rule()
    def restart(self) -> None:
        """Every process is killed and started again; what was acknowledged is there."""
        self.queue.close()
        self._open()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "queue"):
            return
        jobs = {job.id: job for job in self.queue.list(limit=100).jobs}
        assert {job_id: str(job.state) for job_id, job in jobs.items()} == {
            job_id: model.state for job_id, model in self.model.items()
        }
        assert self.queue.stats().waiting <= BOUND
        entries = self.ledger.entries()
        assert self.ledger.dispatcher.alive(entries).keys() == entries.keys(), "an open job without an entry"
        for job_id, model in self.model.items():
            if model.state in {"cancelled", "failed"}:
                assert read_complete(self.final(job_id)) is None
            if model.state == "succeeded":
                assert read_complete(self.final(job_id)) is not None

    def _standing(self, job_id: str):
        return next((found for found in self.ledger.open_jobs() if found.job.id == job_id), None)

    def _holds(self, attempt: Running) -> bool:
        model = self.model[attempt.job_id]
        held = model.holder is attempt and model.state == "running"
        assert self.ledger.holds(attempt.claim)[0] == held
        return held

    def _end(self, job_id: str, found, state: str) -> None:
        if found.may_have_published and not seal(self.final(job_id), state):
            state = "succeeded"
        assert self.ledger.finish(found, JobState(state)) is not None
        self.model[job_id].state = state


TestQueueMachine = pytest.mark.timeout(600)(QueueMachine.TestCase)
TestQueueMachine.settings = settings(
    max_examples=int(os.environ.get("GOWHY_MACHINE_EXAMPLES", "3")), stateful_step_count=30, deadline=None
)
