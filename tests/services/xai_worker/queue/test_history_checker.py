"""The checker of the chaos tests finds each broken promise; a checker that cannot fail proves nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.xai_worker.folder import write_result
from services.xai_worker.queue.base import JobRecord, JobState
from tests.chaos.history import RUN_ID, History, asked
from tests.fakes.memory_queue import MemoryQueue


class Story:
    """A queue that keeps its promises until a test breaks one."""

    def __init__(self, out: Path) -> None:
        self.out, self.queue, self.history = out, MemoryQueue(), History(bound=2)
        self.audit = out.parent / "audit.jsonl"

    def submit(self, key: str) -> str:
        job_id = self.queue.submit(asked(key)).job.id
        self.history.answer(key, job_id)
        return job_id

    def publish(self, job_id: str, text: str = "result") -> None:
        folder = self.out / RUN_ID / "xai" / job_id
        folder.mkdir(parents=True)
        (folder / "explanations.jsonl").write_text(text)
        write_result(folder, {"status": "complete"})
        with self.audit.open("a") as file:
            file.write(json.dumps({"kind": "renamed", "job": job_id}) + "\n")

    def done(self, key: str = "k") -> str:
        job_id = self.submit(key)
        self.queue.begin(job_id)
        self.publish(job_id)
        self.queue.succeed(job_id)
        self.history.look(self.queue, self.out)
        return job_id

    def force(self, job_id: str, **changes: object) -> None:
        self.queue.jobs[job_id] = replace(self.queue.jobs[job_id], **changes)


def lost(story: Story) -> None:
    story.queue.begin(story.submit("l"))


def a_state_goes_back(story: Story) -> None:
    story.force(story.done("l"), state=JobState.RUNNING)


def one_end_becomes_another(story: Story) -> None:
    story.force(story.done("l"), state=JobState.CANCELLED)


def an_attempt_goes_back(story: Story) -> None:
    story.force(story.done("l"), attempt=0)


def two_jobs_for_one_key(story: Story) -> None:
    story.history.answer("k", story.done("l"))


def too_many_wait(story: Story) -> None:
    for key in "xyz":
        story.submit(key)
    story.history.look(story.queue, story.out)
    for key in "xyz":
        story.queue.cancel(story.queue.submit(asked(key)).job.id)


def a_result_is_replaced(story: Story) -> None:
    job_id = story.done("l")
    shutil.rmtree(story.out / RUN_ID / "xai" / job_id)
    story.publish(job_id, "another result")


def published_twice(story: Story) -> None:
    job_id = story.done("l")
    story.audit.write_text(2 * (json.dumps({"kind": "renamed", "job": job_id}) + "\n"))


def cancelled_and_published(story: Story) -> None:
    job_id = story.submit("l")
    story.queue.cancel(job_id)
    story.publish(job_id)


def succeeded_without_a_result(story: Story) -> None:
    job_id = story.submit("l")
    story.queue.begin(job_id)
    story.queue.succeed(job_id)


def half_a_result(story: Story) -> None:
    (story.out / RUN_ID / "xai" / story.done("l") / "explanations.jsonl").write_text("other bytes")


def something_is_left_behind(story: Story) -> None:
    (story.out / RUN_ID / "xai" / ".j.parts").mkdir()


def the_end_is_told_of_no_one(story: Story) -> None:
    story.queue.log[story.done("l")].pop()


BREAKS: list[Callable[[Story], None]] = [
    lost, a_state_goes_back, one_end_becomes_another, an_attempt_goes_back, two_jobs_for_one_key, too_many_wait,
    a_result_is_replaced, published_twice, cancelled_and_published, succeeded_without_a_result, half_a_result,
    something_is_left_behind, the_end_is_told_of_no_one,
]  # fmt: skip


@pytest.fixture
def story(tmp_path: Path) -> Story:
    made = Story(tmp_path / "out")
    made.done("k")
    cancelled = made.submit("c")
    made.queue.cancel(cancelled)
    made.history.cancels.add(cancelled)
    return made


def test_what_the_workers_sweep_anyhow_is_no_fault(story: Story) -> None:
    left = story.out / RUN_ID / "xai" / ".j.1.partial"
    left.mkdir()
    story.history.check(story.queue, story.out).hold()
    assert not left.exists()


def test_a_history_without_fault_holds(story: Story) -> None:
    verdict = story.history.check(story.queue, story.out, story.audit)
    verdict.hold()
    assert verdict.acknowledged == 2


def test_two_lookers_at_once_see_nothing_go_back(story: Story) -> None:
    """What the first has read and not yet compared, the second must not overtake."""
    job_id = story.submit("l")
    has_read, overtaken = threading.Event(), threading.Event()

    class Slow(MemoryQueue):
        def get(self, wanted: str) -> JobRecord:
            found = story.queue.get(wanted)
            if wanted == job_id:
                has_read.set()
                overtaken.wait(0.3)
            return found

    first = threading.Thread(target=lambda: story.history.look(Slow(), story.out))
    first.start()
    assert has_read.wait(10)
    story.queue.begin(job_id)
    story.history.look(story.queue, story.out)
    overtaken.set()
    first.join()
    assert story.history.broken == []
    assert story.history.seen[job_id].state is JobState.RUNNING


@pytest.mark.parametrize("breaks", BREAKS, ids=lambda breaks: breaks.__name__)
def test_each_broken_promise_is_found(story: Story, breaks: Callable[[Story], None]) -> None:
    breaks(story)
    with pytest.raises(AssertionError):
        story.history.check(story.queue, story.out, story.audit).hold()
