"""Compare and set: whoever lost a job changes nothing."""

from __future__ import annotations

import pytest

from services.xai_worker.queue.base import JobError, JobState
from services.xai_worker.queue.engine import entry_id
from services.xai_worker.queue.ledger import Claim, Ledger
from services.xai_worker.queue.sql_queue import SqlQueue
from tests.chaos.history import asked
from tests.services.xai_worker.queue.conftest import OpenQueue, claim

ERROR = JobError("killed", "it was killed", retryable=True)


@pytest.fixture
def queue(open_sql: OpenQueue) -> SqlQueue:
    return open_sql()


@pytest.fixture
def ledger(queue: SqlQueue) -> Ledger:
    return Ledger(queue.database, queue.dispatcher)


def begin(queue: SqlQueue, **request: object) -> Claim:
    made = claim(queue, queue.submit(asked(**request)).job.id)
    assert made is not None
    return made


def alive(ledger: Ledger, claimed: Claim, dispatch: int) -> bool:
    return bool(ledger.dispatcher.alive([entry_id(claimed.job.id, dispatch)]))


def test_two_workers_cannot_begin_the_same_attempt(queue: SqlQueue, ledger: Ledger) -> None:
    queue.submit(asked())
    (found,) = ledger.open_jobs()
    assert ledger.claim(found) is not None
    assert ledger.claim(found) is None


def test_a_worker_that_lost_its_job_changes_nothing(queue: SqlQueue, ledger: Ledger) -> None:
    old = begin(queue)
    assert ledger.dispatch_again(old.job.id, old.dispatch)
    before, events = queue.get(old.job.id), queue.events(old.job.id)
    assert not ledger.grant(old)
    assert ledger.finish(old, JobState.SUCCEEDED, result="r") is None
    assert not ledger.try_later(old, ERROR, 1, out_of_memory=False)
    assert not ledger.hand_back(old)
    ledger.progress(old, [{"done": 1}])
    assert ledger.holds(old) == (False, False)
    assert not ledger.dispatch_again(old.job.id, old.dispatch)
    assert (queue.get(old.job.id), queue.events(old.job.id)) == (before, events)


def test_the_next_attempt_counts_the_interrupted_one(queue: SqlQueue, ledger: Ledger) -> None:
    old = begin(queue)
    ledger.dispatch_again(old.job.id, old.dispatch)
    new = claim(queue, old.job.id)
    assert new is not None
    assert (new.job.attempt, new.job.failures) == (2, 1)
    assert new.job.error is not None
    assert new.job.error.code == "worker_died"
    assert queue.stats().recoveries == 1
    assert ledger.grant(new)
    assert not ledger.grant(old)


def test_a_later_try_is_queued_with_its_delay(queue: SqlQueue, ledger: Ledger) -> None:
    first = begin(queue)
    assert ledger.try_later(first, ERROR, 30, out_of_memory=True)
    job = queue.get(first.job.id)
    assert (job.state, job.failures, job.error) == (JobState.RUNNING, 1, ERROR)
    assert job.retry_at is not None
    assert 25 < job.retry_at - job.created_at < 60
    assert alive(ledger, first, 2)
    second = claim(queue, first.job.id)
    assert second is not None
    assert second.out_of_memory == 1
    assert queue.get(first.job.id).retry_at is None
    assert queue.stats().retries == 1


def test_a_job_handed_back_counts_no_attempt(queue: SqlQueue, ledger: Ledger) -> None:
    first = begin(queue)
    assert ledger.hand_back(first)
    second = claim(queue, first.job.id)
    assert second is not None
    assert (second.job.attempt, second.job.failures) == (2, 0)


def test_no_leave_to_publish_after_a_request_to_cancel(queue: SqlQueue, ledger: Ledger) -> None:
    running = begin(queue)
    queue.cancel(running.job.id)
    assert not ledger.grant(running)
    assert ledger.holds(running) == (True, True)


def test_a_job_with_leave_to_publish_is_not_cancelled_at_once(queue: SqlQueue, ledger: Ledger) -> None:
    first = begin(queue)
    assert ledger.grant(first)
    ledger.dispatch_again(first.job.id, first.dispatch)  # its worker is dead, its child perhaps not
    assert queue.cancel(first.job.id).state is JobState.RUNNING
    (found,) = ledger.open_jobs()
    assert found.may_have_published
    assert ledger.claim(found) is None  # nothing is begun that shall be cancelled


def test_the_first_grant_whose_end_nobody_saw_stays_noted(queue: SqlQueue, ledger: Ledger) -> None:
    first = begin(queue)
    ledger.grant(first)
    ledger.dispatch_again(first.job.id, first.dispatch)
    second = claim(queue, first.job.id)
    assert second is not None
    assert second.may_have_published
    ledger.grant(second)
    ledger.try_later(second, ERROR, 0, out_of_memory=False)  # the second is dead for sure, the first is not
    (found,) = ledger.open_jobs()
    assert found.may_have_published
    third = claim(queue, first.job.id)
    assert third is not None
    ledger.finish(third, JobState.FAILED, error=ERROR)
    assert queue.get(first.job.id).state is JobState.FAILED


def test_between_two_attempts_a_job_is_cancelled_at_once(queue: SqlQueue, ledger: Ledger) -> None:
    first = begin(queue)
    ledger.try_later(first, ERROR, 60, out_of_memory=False)
    assert queue.cancel(first.job.id).state is JobState.CANCELLED
    assert not alive(ledger, first, 2)


def test_an_old_dispatch_is_nobodys(queue: SqlQueue, ledger: Ledger) -> None:
    first = begin(queue)
    ledger.hand_back(first)
    assert ledger.standing(first.job.id, 1) is None
    assert ledger.standing(first.job.id, 2) is not None


def test_submission_and_entry_commit_together_or_not_at_all(queue: SqlQueue, ledger: Ledger, monkeypatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("before the commit")

    monkeypatch.setattr("services.xai_worker.queue.sql_queue.crash_point", fails)
    with pytest.raises(RuntimeError):
        queue.submit(asked("k"))
    assert queue.list().jobs == []
    monkeypatch.undo()
    job = queue.submit(asked("k")).job
    assert ledger.dispatcher.alive([entry_id(job.id, 1)]) == {entry_id(job.id, 1): None}
