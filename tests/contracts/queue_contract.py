"""What every `JobQueue` must do; an implementation's test is a subclass with fixtures and a worker's moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from services.xai_worker.queue.base import (
    BadPageToken,
    Draining,
    JobQueue,
    JobState,
    KeyReused,
    NoSuchJob,
    OwnerQuota,
    QueueFull,
    Submission,
    WrongState,
)

BOUND, OWNER_BOUND = 4, 6
MakeQueue = Callable[[], JobQueue]


def submission(key: str | None = None, owner: str = "lab", fingerprint: str = "f", **more: Any) -> Submission:
    """A submission that differs from others in what a test names."""
    return Submission(
        run_id="run", manifest="run/manifest.json", request={"proteins": ["T1"]}, owner=owner,
        fingerprint=fingerprint, idempotency_key=key, work_units=7, request_id="r1", traceparent="00-a-b-01", **more,
    )  # fmt: skip


class QueueContract:
    """Subclass, and give a `queue` fixture with the bounds above, and what a worker would do."""

    @pytest.fixture
    def queue(self) -> JobQueue:
        raise NotImplementedError

    def begin(self, queue: JobQueue, job_id: str) -> None:
        """The first attempt of the round begins."""
        raise NotImplementedError

    def succeed(self, queue: JobQueue, job_id: str) -> None:
        """A running job's result stands."""
        raise NotImplementedError

    def fail(self, queue: JobQueue, job_id: str) -> None:
        """A running job fails with the code `bad_data`."""
        raise NotImplementedError

    def end_cancelled(self, queue: JobQueue, job_id: str) -> None:
        """The process of a running job that shall be cancelled is gone."""
        raise NotImplementedError

    def kinds(self, queue: JobQueue, job_id: str) -> list[str]:
        return [event.kind for event in queue.events(job_id)]

    def test_is_a_queue(self, queue: JobQueue) -> None:
        assert isinstance(queue, JobQueue)
        assert queue.stats().waiting == 0
        queue.ping()

    def test_a_submission_waits_and_keeps_what_it_said(self, queue: JobQueue) -> None:
        accepted = queue.submit(submission("k", manifest_sha256="0" * 64))
        assert not accepted.replayed
        job = queue.get(accepted.job.id)
        assert job == accepted.job
        assert (job.state, job.round, job.attempt, job.failures) == (JobState.QUEUED, 1, 0, 0)
        assert (job.run_id, job.manifest, job.manifest_sha256) == ("run", "run/manifest.json", "0" * 64)
        assert (dict(job.request), job.owner, job.idempotency_key) == ({"proteins": ["T1"]}, "lab", "k")
        assert (job.work_units, job.request_id, job.traceparent) == (7, "r1", "00-a-b-01")
        assert self.kinds(queue, job.id) == ["queued"]

    def test_the_same_key_gives_the_same_job_also_at_a_full_queue_and_while_draining(self, queue: JobQueue) -> None:
        first = queue.submit(submission("k")).job
        for _ in range(BOUND - 1):
            queue.submit(submission())
        for _ in range(2):
            again = queue.submit(submission("k"))
            assert (again.job.id, again.replayed) == (first.id, True)
            looked = queue.precheck("lab", "k", "f")
            assert looked is not None
            assert looked.job.id == first.id
            queue.drain()

    def test_a_key_belongs_to_its_owner_and_its_request(self, queue: JobQueue) -> None:
        first = queue.submit(submission("k")).job
        assert queue.submit(submission("k", owner="other")).job.id != first.id
        for call in (lambda: queue.submit(submission("k", fingerprint="g")), lambda: queue.precheck("lab", "k", "g")):
            with pytest.raises(KeyReused):
                call()

    def test_without_a_key_each_submission_is_a_new_job(self, queue: JobQueue) -> None:
        assert len({queue.submit(submission()).job.id for _ in range(3)}) == 3

    def test_at_the_bound_the_next_is_refused_and_leaves_nothing(self, queue: JobQueue) -> None:
        jobs = [queue.submit(submission(owner=f"o{i}")).job.id for i in range(BOUND)]
        with pytest.raises(QueueFull) as refused:
            queue.submit(submission("late", owner="late"))
        assert refused.value.retry_after_s >= 1
        assert (refused.value.waiting, refused.value.bound) == (BOUND, BOUND)
        with pytest.raises(QueueFull):
            queue.precheck("late", None, "f")
        assert len(queue.list().jobs) == BOUND
        assert queue.stats().refused >= 1
        self.begin(queue, jobs[0])  # a job that runs does not wait
        assert not queue.submit(submission("late", owner="late")).replayed

    def test_an_owner_has_a_bound_of_its_own(self, queue: JobQueue) -> None:
        for _ in range(OWNER_BOUND):
            self.begin(queue, queue.submit(submission()).job.id)
        with pytest.raises(OwnerQuota) as refused:
            queue.submit(submission())
        assert refused.value.retry_after_s >= 1
        queue.submit(submission(owner="other"))

    def test_exactly_the_bound_is_accepted_from_many_threads(self, queue: JobQueue) -> None:
        accepted, refused = [], []

        def submit(number: int) -> None:
            try:
                accepted.append(queue.submit(submission(owner=f"o{number}")).job.id)
            except QueueFull:
                refused.append(number)

        threads = [threading.Thread(target=submit, args=(number,)) for number in range(4 * BOUND)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(accepted) == BOUND
        assert len(set(accepted)) == BOUND
        assert len(refused) == 3 * BOUND
        assert queue.stats().waiting == BOUND

    def test_one_key_from_many_threads_is_one_job(self, queue: JobQueue) -> None:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(queue.submit(submission("k")))) for _ in range(4 * BOUND)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({answer.job.id for answer in answers}) == 1
        assert sum(not answer.replayed for answer in answers) == 1

    def test_a_job_runs_and_succeeds(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission()).job.id
        self.begin(queue, job_id)
        running = queue.get(job_id)
        assert (running.state, running.attempt, running.finished_at) == (JobState.RUNNING, 1, None)
        assert running.started_at is not None
        self.succeed(queue, job_id)
        job = queue.get(job_id)
        assert (job.state, job.result, job.error) == (JobState.SUCCEEDED, f"run/xai/{job_id}", None)
        assert job.finished_at is not None
        assert job.version > running.version > 1
        kinds = self.kinds(queue, job_id)
        assert kinds[0] == "queued"
        assert kinds[-1] == "succeeded"
        assert set(kinds) >= {"running", "attempt"}

    def test_events_are_numbered_and_resumed(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission()).job.id
        self.begin(queue, job_id)
        self.succeed(queue, job_id)
        events = queue.events(job_id)
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        assert list(queue.events(job_id, after=2)) == list(events[2:])
        assert list(queue.events(job_id, limit=2)) == list(events[:2])
        assert list(queue.events(job_id, after=len(events))) == []

    def test_a_waiting_job_is_cancelled_at_once(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission()).job.id
        assert queue.cancel(job_id).state is JobState.CANCELLED
        assert queue.get(job_id).finished_at is not None
        assert queue.stats().waiting == 0
        assert queue.cancel(job_id).state is JobState.CANCELLED
        assert self.kinds(queue, job_id)[-1] == "cancelled"

    def test_a_running_job_is_cancelled_when_its_process_is_gone(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission()).job.id
        self.begin(queue, job_id)
        for _ in range(2):
            asked = queue.cancel(job_id)
            assert (asked.state, asked.cancel_requested) == (JobState.RUNNING, True)
        assert self.kinds(queue, job_id).count("cancel_requested") == 1
        self.end_cancelled(queue, job_id)
        assert queue.get(job_id).state is JobState.CANCELLED

    def test_a_finished_job_is_not_cancelled_any_more(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission()).job.id
        self.begin(queue, job_id)
        self.succeed(queue, job_id)
        before = queue.get(job_id)
        assert queue.cancel(job_id) == before

    def test_a_failed_job_says_why_and_can_be_tried_again(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission("k")).job.id
        self.begin(queue, job_id)
        self.fail(queue, job_id)
        failed = queue.get(job_id)
        assert failed.state is JobState.FAILED
        assert failed.error is not None
        assert failed.error.code == "bad_data"
        assert queue.stats().by_state[JobState.FAILED] == 1
        again = queue.retry(job_id)
        assert (again.id, again.state, again.round, again.attempt, again.failures) == (
            job_id, JobState.QUEUED, 2, 1, 0,
        )  # fmt: skip
        assert (again.error, again.finished_at, again.cancel_requested) == (None, None, False)
        assert queue.submit(submission("k")).job.id == job_id
        self.begin(queue, job_id)
        assert queue.get(job_id).attempt == 2
        self.succeed(queue, job_id)
        assert self.kinds(queue, job_id).count("queued") == 2

    def test_a_cancelled_job_can_be_tried_again(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission()).job.id
        queue.cancel(job_id)
        assert queue.retry(job_id).state is JobState.QUEUED
        self.begin(queue, job_id)
        self.succeed(queue, job_id)
        assert queue.get(job_id).state is JobState.SUCCEEDED

    def test_a_retry_counts_against_the_bound(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission()).job.id
        queue.cancel(job_id)
        for _ in range(BOUND):
            queue.submit(submission(owner="other"))
        with pytest.raises(QueueFull):
            queue.retry(job_id)
        assert queue.get(job_id).state is JobState.CANCELLED

    @pytest.mark.parametrize("state", ["queued", "running", "succeeded"])
    def test_only_a_failed_or_cancelled_job_is_tried_again(self, queue: JobQueue, state: str) -> None:
        job_id = queue.submit(submission()).job.id
        if state != "queued":
            self.begin(queue, job_id)
        if state == "succeeded":
            self.succeed(queue, job_id)
        with pytest.raises(WrongState, match=state):
            queue.retry(job_id)

    def test_pages_give_every_job_once_newest_first(self, queue: JobQueue) -> None:
        made = []
        for number in range(7):
            made.append(queue.submit(submission(owner=f"o{number % 2}")).job.id)
            self.begin(queue, made[-1])
        for number in range(3):
            self.succeed(queue, made[number])
        found, token = [], None
        while True:
            page = queue.list(limit=3, page_token=token)
            found += [job.id for job in page.jobs]
            if (token := page.next_token) is None:
                break
        assert found == made[::-1]
        assert [job.id for job in queue.list(state=JobState.SUCCEEDED).jobs] == made[:3][::-1]
        assert [job.id for job in queue.list(owner="o1").jobs] == made[1::2][::-1]
        assert [job.id for job in queue.list(owner="o1", state=JobState.SUCCEEDED).jobs] == [made[1]]

    @pytest.mark.parametrize("token", ["", "x", "AAAA", "MS4wIGE=" * 3, "'; --", "é"])
    def test_a_page_token_of_somebody_else_is_refused(self, queue: JobQueue, token: str) -> None:
        queue.submit(submission())
        with pytest.raises(BadPageToken):
            queue.list(page_token=token)

    def test_an_unknown_job_is_named(self, queue: JobQueue) -> None:
        for call in (queue.get, queue.cancel, queue.retry, queue.events):
            with pytest.raises(NoSuchJob, match="nothing-like-it"):
                call("nothing-like-it")

    def test_while_draining_nothing_new_comes_and_everything_else_goes_on(self, queue: JobQueue) -> None:
        job_id = queue.submit(submission()).job.id
        queue.drain()
        assert queue.draining
        with pytest.raises(Draining):
            queue.submit(submission())
        with pytest.raises(Draining):
            queue.precheck("lab", None, "f")
        self.begin(queue, job_id)
        self.succeed(queue, job_id)
        assert queue.get(job_id).state is JobState.SUCCEEDED

    def test_stats_count_states_and_say_how_long_the_oldest_waits(self, queue: JobQueue) -> None:
        assert queue.stats().oldest_waiting_s is None
        jobs = [queue.submit(submission()).job.id for _ in range(3)]
        self.begin(queue, jobs[0])
        stats = queue.stats()
        assert (stats.waiting, stats.running, stats.bound) == (2, 1, BOUND)
        assert stats.oldest_waiting_s is not None
        assert 0 <= stats.oldest_waiting_s < 60
