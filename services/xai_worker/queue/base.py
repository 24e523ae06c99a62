"""What HTTP asks of the queue: records, errors and the `JobQueue` protocol. No engine is imported here.

A job is `queued` until its first attempt begins, `running` until it has an end (between two attempts too:
then `retry_at` is set), and after that succeeded, failed or cancelled. It never goes back, except that
`retry` of a failed or cancelled job opens a new `round`, which starts at `queued`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from shared.errors import MissingInput, NotPermitted, ServiceUnavailable, TryAgain, UsageError

HISTOGRAM_BOUNDS_S = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)


class JobState(StrEnum):
    """Where a job is; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when nothing more happens to the job unless somebody asks for a retry."""
        return self not in {JobState.QUEUED, JobState.RUNNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A checked request; the queue believes it."""

    run_id: str
    manifest: str  # manifest.json, relative to the root of the volume: "<run_id>/manifest.json"
    request: Mapping[str, Any]  # an ExplainRequest as JSON
    owner: str  # name of the token
    fingerprint: str  # digest of what was asked, to compare replays of one idempotency key
    manifest_sha256: str | None = None  # of the file's bytes at submission; the worker refuses another file
    idempotency_key: str | None = None  # unique per owner; None: each submission is a new job
    work_units: int = 0  # proteins x terms x residues
    request_id: str | None = None
    traceparent: str | None = None  # W3C trace context of the request


@dataclass(frozen=True, slots=True)
class JobError:
    """Why an attempt failed: a stable code of shared.errors or of the worker, and a sentence for a person."""

    code: str
    message: str
    retryable: bool = False  # it may pass when it is tried again


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job as the database has it. Times are seconds since the epoch."""

    id: str
    run_id: str
    manifest: str
    request: Mapping[str, Any]
    owner: str
    fingerprint: str
    state: JobState
    created_at: float
    version: int = 1  # +1 by every change of the record; for ETag
    manifest_sha256: str | None = None
    idempotency_key: str | None = None
    round: int = 1  # +1 by each retry
    attempt: int = 0  # runs begun, over all rounds; never decreases
    failures: int = 0  # attempts of this round that count against the limit
    started_at: float | None = None  # first attempt of this round
    finished_at: float | None = None
    retry_at: float | None = None  # running, but between attempts: when the next one is due
    cancel_requested: bool = False
    error: JobError | None = None  # of the last failed attempt; of the job when it failed
    result: str | None = None  # result folder relative to the root of the volume; only when succeeded
    progress: Mapping[str, Any] | None = None  # {"done", "total", "protein", "model", "method"}; done counts proteins
    work_units: int = 0
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job, and whether it was there before under the same idempotency key."""

    job: JobRecord
    replayed: bool


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job, append-only.

    Kinds: the five states, `attempt` (a run begins), `progress`, `retrying`, `cancel_requested`. `id` counts from
    1 within the job. The last event of a round has a final state as its kind.
    """

    id: int
    kind: str
    data: Mapping[str, Any]
    at: float


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs, newest first, and the token of the next page; None at the end."""

    jobs: Sequence[JobRecord]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts[i]` values were at most `HISTOGRAM_BOUNDS_S[i]` (cumulative); `count` and `sum` are over all."""

    counts: tuple[int, ...] = (0,) * len(HISTOGRAM_BOUNDS_S)
    count: int = 0
    sum: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """The queue in figures, for /v1/info, readiness and metrics."""

    bound: int
    max_attempts: int
    slots: int  # jobs that can run at once, over all live workers
    workers: int  # live workers (heartbeat within the lease time)
    by_state: Mapping[JobState, int] = field(default_factory=dict)
    oldest_waiting_s: float | None = None
    median_run_s: float | None = None  # of recent finished jobs
    last_claim_at: float | None = None
    last_heartbeat_at: float | None = None
    failures_by_code: Mapping[str, int] = field(default_factory=dict)  # of failed jobs
    retries: int = 0  # attempts repeated after a failure that may pass
    recoveries: int = 0  # attempts repeated because a worker died or handed the job back
    refused: int = 0  # submissions refused by a bound, counted in this process
    queue_wait: Histogram = field(default_factory=Histogram)  # seconds from submission to the first attempt
    run_time: Histogram = field(default_factory=Histogram)  # seconds from the first attempt to the end

    @property
    def waiting(self) -> int:
        """Jobs that count against the bound: accepted, and not begun."""
        return self.by_state.get(JobState.QUEUED, 0)

    @property
    def running(self) -> int:
        """Jobs begun and not ended, those between two attempts included."""
        return self.by_state.get(JobState.RUNNING, 0)


class QueueFull(TryAgain):
    """As many jobs wait as may."""

    code = "queue_full"

    def __init__(self, waiting: int, bound: int, retry_after_s: int) -> None:
        self.waiting, self.bound, self.retry_after_s = waiting, bound, retry_after_s
        super().__init__(
            f"{waiting} jobs wait, which is the bound of {bound}", remedy=f"Try again in {retry_after_s} s"
        )


class OwnerQuota(TryAgain):
    """This token has as many unfinished jobs as it may."""

    code = "owner_quota"

    def __init__(self, owner: str, bound: int, retry_after_s: int) -> None:
        self.owner, self.bound, self.retry_after_s = owner, bound, retry_after_s
        super().__init__(
            f"{owner} has {bound} unfinished jobs, which is its bound",
            remedy=f"Wait for one of them to finish, or try again in {retry_after_s} s",
        )


class KeyReused(UsageError):
    """An idempotency key came back with another request."""

    code = "key_reused"

    def __init__(self) -> None:
        super().__init__("this idempotency key belongs to another request", remedy="Use a new key for a new request")


class Draining(ServiceUnavailable):
    """The service is being stopped."""

    code = "draining"
    retry_after_s = 30

    def __init__(self) -> None:
        super().__init__("the service is being stopped and takes no new job", remedy="Try again when it is back")


class StoreDown(ServiceUnavailable):
    """The queue's database does not answer, or refuses to write."""

    code = "store_down"
    retry_after_s = 5

    def __init__(self, what: str) -> None:
        super().__init__(f"the queue's database is not available: {what}", remedy="Try again; nothing was accepted")


class NoSuchJob(MissingInput):
    """No job has this id (any more)."""

    code = "no_such_job"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}", remedy="Finished jobs are forgotten after the retention time")


class WrongState(NotPermitted):
    """The job is not in a state that allows this."""

    code = "wrong_state"

    def __init__(self, job: JobRecord, wanted: str) -> None:
        self.state = job.state
        super().__init__(f"job {job.id} is {job.state}", remedy=f"Only a job that is {wanted} can be asked this")


class BadPageToken(UsageError):
    """A page token that this service did not give."""

    code = "bad_page_token"

    def __init__(self) -> None:
        super().__init__("not a page token of this service", remedy="Use next_page_token as it was given")


@runtime_checkable
class JobQueue(Protocol):
    """The bounded, durable queue. Every method blocks on the database and may be called from any thread.

    Every method that touches the database raises `StoreDown` when it cannot.
    """

    @property
    def draining(self) -> bool:
        """True after `drain`."""
        ...

    def submit(self, submission: Submission) -> Accepted:
        """Accept a job durably, or give back the one that this owner and key already have.

        Raises:
            KeyReused: the key came with another fingerprint before.
            QueueFull: the bound of waiting jobs is reached.
            OwnerQuota: the owner's bound of unfinished jobs is reached.
            Draining: the service is stopping. A replay is still answered.
        """
        ...

    def precheck(self, owner: str, idempotency_key: str | None, fingerprint: str) -> Accepted | None:
        """A look without a lock, before a request is checked: the replay if there is one, None to go on.

        Raises:
            KeyReused, QueueFull, OwnerQuota, Draining: what `submit` would raise now.
        """
        ...

    def get(self, job_id: str) -> JobRecord:
        """One job.

        Raises:
            NoSuchJob: there is none.
        """
        ...

    def list(
        self,
        *,
        state: JobState | None = None,
        owner: str | None = None,
        page_token: str | None = None,
        limit: int = 50,
    ) -> Page:
        """Jobs, newest first.

        Raises:
            BadPageToken: the token is not one of ours.
        """
        ...

    def cancel(self, job_id: str) -> JobRecord:
        """Ask for the end of a job; the record as it is afterwards. A final job is given back unchanged.

        A waiting job is cancelled at once. A running one gets `cancel_requested`, and is cancelled when its
        process has gone; where its result was being published at that moment it still succeeds.

        Raises:
            NoSuchJob: there is none.
        """
        ...

    def retry(self, job_id: str) -> JobRecord:
        """Queue a failed or cancelled job again, under the same id and with all its attempts before it.

        Raises:
            NoSuchJob: there is none.
            WrongState: it is not failed or cancelled.
            QueueFull, OwnerQuota, Draining: as for `submit`.
        """
        ...

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> Sequence[Event]:
        """Events with a larger id than `after`, in order; poll for more.

        Raises:
            NoSuchJob: there is none.
        """
        ...

    def stats(self) -> QueueStats:
        """The queue in figures."""
        ...

    def ping(self) -> None:
        """Write to the database; readiness."""
        ...

    def drain(self) -> None:
        """Accept no new job from now on; everything else still works."""
        ...

    def close(self) -> None:
        """Give the connections back."""
        ...
