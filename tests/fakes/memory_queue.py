"""A `JobQueue` in memory: the same rules, no database, no worker. Tests move jobs on by hand."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.xai_worker.queue.base import (
    Accepted,
    BadPageToken,
    Draining,
    Event,
    JobError,
    JobRecord,
    JobState,
    KeyReused,
    NoSuchJob,
    OwnerQuota,
    Page,
    QueueFull,
    QueueStats,
    Submission,
    WrongState,
)


class MemoryQueue:
    """Holds jobs in a dict, oldest first."""

    def __init__(self, bound: int = 100, owner_bound: int = 1000) -> None:
        self.bound, self.owner_bound = bound, owner_bound
        self.jobs: dict[str, JobRecord] = {}
        self.log: dict[str, list[Event]] = {}
        self.refused = 0
        self._draining = False
        self._lock = threading.RLock()

    @property
    def draining(self) -> bool:
        return self._draining

    def precheck(self, owner: str, idempotency_key: str | None, fingerprint: str) -> Accepted | None:
        with self._lock:
            for job in self.jobs.values():
                if idempotency_key is not None and (job.owner, job.idempotency_key) == (owner, idempotency_key):
                    if job.fingerprint != fingerprint:
                        raise KeyReused
                    return Accepted(job, replayed=True)
            self._admit(owner)
            return None

    def submit(self, submission: Submission) -> Accepted:
        with self._lock:
            key = submission.idempotency_key
            if (known := self.precheck(submission.owner, key, submission.fingerprint)) is not None:
                return known
            job = JobRecord(
                id=uuid.uuid4().hex, state=JobState.QUEUED, created_at=time.time(),
                run_id=submission.run_id, manifest=submission.manifest, request=dict(submission.request),
                owner=submission.owner, fingerprint=submission.fingerprint, idempotency_key=key,
                work_units=submission.work_units, request_id=submission.request_id,
                traceparent=submission.traceparent, manifest_sha256=submission.manifest_sha256,
            )  # fmt: skip
            self.jobs[job.id] = job
            self._event(job.id, "queued", {"round": 1})
            return Accepted(job, replayed=False)

    def get(self, job_id: str) -> JobRecord:
        with self._lock:
            if job_id not in self.jobs:
                raise NoSuchJob(job_id)
            return self.jobs[job_id]

    def list(
        self,
        *,
        state: JobState | None = None,
        owner: str | None = None,
        page_token: str | None = None,
        limit: int = 50,
    ) -> Page:
        with self._lock:
            newest_first = list(reversed(self.jobs))
            start = 0
            if page_token is not None:
                if page_token not in self.jobs:
                    raise BadPageToken
                start = newest_first.index(page_token) + 1
            chosen = [
                self.jobs[i]
                for i in newest_first[start:]
                if (state is None or self.jobs[i].state == state) and (owner is None or self.jobs[i].owner == owner)
            ]
            return Page(chosen[:limit], chosen[limit - 1].id if len(chosen) > limit else None)

    def cancel(self, job_id: str) -> JobRecord:
        with self._lock:
            job = self.get(job_id)
            if job.state.final:
                return job
            if job.state is JobState.QUEUED:
                return self._finish(job_id, JobState.CANCELLED)
            if not job.cancel_requested:
                self._event(job_id, "cancel_requested", {})
            return self._set(job_id, cancel_requested=True)

    def retry(self, job_id: str) -> JobRecord:
        with self._lock:
            job = self.get(job_id)
            if job.state not in {JobState.FAILED, JobState.CANCELLED}:
                raise WrongState(job, "failed or cancelled")
            self._admit(job.owner)
            self._event(job_id, "queued", {"round": job.round + 1})
            return self._set(
                job_id, state=JobState.QUEUED, round=job.round + 1, failures=0, started_at=None, finished_at=None,
                error=None, cancel_requested=False, progress=None,
            )  # fmt: skip

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> Sequence[Event]:
        with self._lock:
            self.get(job_id)
            return self.log[job_id][after : after + limit]

    def stats(self) -> QueueStats:
        with self._lock:
            states = [job.state for job in self.jobs.values()]
            waiting = [job.created_at for job in self.jobs.values() if job.state is JobState.QUEUED]
            return QueueStats(
                bound=self.bound,
                max_attempts=3,
                slots=1,
                workers=1,
                by_state={state: states.count(state) for state in JobState},
                oldest_waiting_s=time.time() - min(waiting) if waiting else None,
                last_heartbeat_at=time.time(),
                refused=self.refused,
            )

    def ping(self) -> None:
        """Always there."""

    def drain(self) -> None:
        self._draining = True

    def close(self) -> None:
        """Nothing to give back."""

    # What a worker would do.

    def begin(self, job_id: str) -> JobRecord:
        """The next attempt begins."""
        with self._lock:
            job = self.get(job_id)
            self._event(job_id, "attempt", {"attempt": job.attempt + 1})
            if job.state is JobState.QUEUED:
                self._event(job_id, "running", {})
            return self._set(
                job_id, state=JobState.RUNNING, attempt=job.attempt + 1, started_at=job.started_at or time.time()
            )

    def report(self, job_id: str, progress: Mapping[str, Any]) -> None:
        """Progress of a running job."""
        with self._lock:
            self._event(job_id, "progress", progress)
            self._set(job_id, progress=dict(progress))

    def succeed(self, job_id: str) -> JobRecord:
        """The result folder stands."""
        job = self.get(job_id)
        return self._finish(job_id, JobState.SUCCEEDED, result=f"{job.run_id}/xai/{job.id}")

    def fail(self, job_id: str, code: str = "bad_data", message: str = "the input is wrong") -> JobRecord:
        """The job cannot succeed."""
        return self._finish(job_id, JobState.FAILED, error=JobError(code, message))

    def end_cancelled(self, job_id: str) -> JobRecord:
        """The process of a job with `cancel_requested` has gone."""
        return self._finish(job_id, JobState.CANCELLED)

    def _admit(self, owner: str) -> None:
        if self._draining:
            raise Draining
        states = [job.state for job in self.jobs.values()]
        if (waiting := states.count(JobState.QUEUED)) >= self.bound:
            self.refused += 1
            raise QueueFull(waiting, self.bound, 1)
        if sum(job.owner == owner and not job.state.final for job in self.jobs.values()) >= self.owner_bound:
            self.refused += 1
            raise OwnerQuota(owner, self.owner_bound, 1)

    def _finish(self, job_id: str, state: JobState, **changes: Any) -> JobRecord:
        with self._lock:
            self._event(job_id, str(state), {})
            return self._set(job_id, state=state, finished_at=time.time(), retry_at=None, **changes)

    def _set(self, job_id: str, **changes: Any) -> JobRecord:
        self.jobs[job_id] = replace(self.jobs[job_id], version=self.jobs[job_id].version + 1, **changes)
        return self.jobs[job_id]

    def _event(self, job_id: str, kind: str, data: Mapping[str, Any]) -> None:
        log = self.log.setdefault(job_id, [])
        log.append(Event(len(log) + 1, kind, dict(data), time.time()))
