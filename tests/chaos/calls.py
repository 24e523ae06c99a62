"""One call to the queue in a process that may be killed: `python -m tests.chaos.calls submit KEY | cancel ID`."""

from __future__ import annotations

import sys

from services.xai_worker.queue.opening import open_queue
from services.xai_worker.queue.sql_queue import SqlQueue
from services.xai_worker.settings import WorkerSettings
from tests.chaos.history import asked


def call(queue: SqlQueue, verb: str, argument: str) -> str:
    if verb == "submit":
        return queue.submit(asked(argument)).job.id
    return queue.cancel(argument).state


if __name__ == "__main__":
    opened = open_queue(WorkerSettings.from_environment())
    print(call(opened, *sys.argv[1:]))
    opened.close()
