"""The service on a real loopback port, in a thread, over a queue in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from services.xai_worker.app import create_app
from services.xai_worker.http.server import Server, listen
from services.xai_worker.http.tokens import Token, Tokens
from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.queue.base import JobQueue, JobState
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun


@contextmanager
def served(queue: JobQueue, settings: HttpSettings, tokens: list[Token]) -> Iterator[str]:
    """Yield the address of a running server."""
    settings = settings.model_copy(update={"port": 0})
    listening = listen(settings)
    server = Server(create_app(queue, settings, Tokens(tokens)), settings, queue.drain)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        queue.drain()  # ends the open streams
        server.should_exit = True
        thread.join(20)


class Worker(threading.Thread):
    """Takes waiting jobs one by one, reports each protein, and leaves a result folder."""

    def __init__(self, queue: MemoryQueue, run: PublishedRun, proteins: int = 3, step_s: float = 0.05) -> None:
        super().__init__(daemon=True)
        self.queue, self.run_folder, self.proteins, self.step_s = queue, run, proteins, step_s
        self.stopping = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.by_hand: threading.Semaphore | None = None  # a test's: released once per protein, then time plays no part

    def run(self) -> None:
        while not self.stopping.wait(0.02):
            waiting = [job for job in list(self.queue.jobs.values()) if job.state is JobState.QUEUED]
            if waiting and self.go.is_set():
                self.work(waiting[0].id)

    def work(self, job_id: str) -> None:
        self.queue.begin(job_id)
        for done in range(self.proteins):
            step = {
                "done": done,
                "total": self.proteins,
                "protein": f"T{done + 1}",
                "model": "cnn",
                "method": "occlusion",
            }
            self.queue.report(job_id, step)
            if self.by_hand is not None:
                self.by_hand.acquire()
            else:
                time.sleep(self.step_s)
            if self.queue.get(job_id).cancel_requested:
                self.queue.end_cancelled(job_id)
                return
        if self.queue.get(job_id).request["seed"] == 13:
            self.queue.fail(job_id, "parity", "another model would be explained")
            return
        self.run_folder.result(job_id)
        self.queue.succeed(job_id)
