"""The life of a worker process: check, take a slot, repair, run jobs, and on SIGTERM drain.

Draining: nothing new is begun; what runs may end within the grace time, and is handed back after it
without counting the attempt; exit 0. A worker that loses its slot kills its children and exits 75.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from services.xai_worker import tracing
from services.xai_worker.queue.base import StoreDown
from services.xai_worker.queue.dbos_engine import DbosRunner
from services.xai_worker.queue.ledger import Ledger
from services.xai_worker.queue.opening import open_queue
from services.xai_worker.settings import WorkerSettings
from services.xai_worker.worker.attempts import Attempts
from services.xai_worker.worker.housekeeping import Housekeeping
from services.xai_worker.worker.lease import lease_for
from services.xai_worker.worker.process import CHILD
from services.xai_worker.worker.volume import check_volume
from shared.errors import TryAgain

LOG = logging.getLogger(__name__)
HOUSEKEEPING_BEATS = 2  # heartbeats between two rounds
STALLED_LEASES = 3  # lease times without work although there is some
LAST_WRITES_S = 10.0  # for writing down what became of the last jobs


def run_worker(
    settings: WorkerSettings,
    command: Sequence[str] = CHILD,
    *,
    supervised: bool = False,
    pulse: int | None = None,
) -> int:
    """Run jobs until SIGTERM or SIGINT.

    Args:
        settings: see `WorkerSettings`.
        command: the child process; tests use a cheap one.
        supervised: end at once when standard input closes, because the supervisor has died.
        pulse: a descriptor that gets a byte with each heartbeat, so that the supervisor sees a stopped process.

    Raises:
        ConfigError: the database is where it must not be.
        CannotWrite, MissingInput: the volume cannot take results.
        TryAgain: another worker has the only slot.
        StoreDown: the database does not answer.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if pulse is not None:
        threading.Thread(target=_pulse, args=(pulse, settings.heartbeat_s), daemon=True).start()
    tracing.configure("gowhy-xai-worker")
    check_volume(settings.out)
    queue = open_queue(settings)
    ledger = Ledger(queue.database, queue.dispatcher)
    lease = lease_for(queue.database, settings, on_lost=lambda: _die(attempts))
    attempts = Attempts(ledger, lease, settings, command)
    if supervised:
        threading.Thread(target=_watch_supervisor, args=(attempts,), daemon=True).start()
    lease.acquire()
    LOG.info("worker ready", extra={"fields": {"slot": lease.slot, "concurrency": settings.concurrency}})
    housekeeping = Housekeeping(ledger, lease, settings)
    housekeeping.at_start()
    runner = DbosRunner(queue.database, lease.slot, concurrency=settings.concurrency, poll_s=settings.poll_s)
    runner.start(attempts.run)
    while not stop.wait(HOUSEKEEPING_BEATS * settings.heartbeat_s):
        try:
            housekeeping.tick(frozenset(attempts.running))
        except (StoreDown, SQLAlchemyError) as error:  # the engine's own calls name the latter
            LOG.warning("housekeeping waits for the database", extra={"fields": {"reason": str(error)[:200]}})
        if min(housekeeping.neglected_s, attempts.idle_s) > STALLED_LEASES * settings.lease_s:
            LOG.error("the engine hands out nothing although jobs wait; this process ends to be started again")
            _die(attempts)
    _drain(settings, attempts, runner)
    lease.release()
    queue.close()
    tracing.flush()
    LOG.info("worker ended", extra={"fields": {"slot": lease.slot}})
    return 0


def _drain(settings: WorkerSettings, attempts: Attempts, runner: DbosRunner) -> None:
    LOG.info("draining", extra={"fields": {"grace_s": settings.drain_s}})
    attempts.draining.set()
    alarm = threading.Timer(settings.drain_s, attempts.handing_back.set)
    alarm.daemon = True
    alarm.start()
    runner.stop(settings.drain_s + settings.kill_grace_s + LAST_WRITES_S)
    alarm.cancel()


def _watch_supervisor(attempts: Attempts) -> None:
    while os.read(0, 1):
        pass
    _die(attempts)


def _pulse(descriptor: int, every_s: float) -> None:
    while True:
        os.write(descriptor, b".")
        time.sleep(every_s)


def _die(attempts: Attempts) -> None:
    """End this process now; its jobs belong to others, or to the next one."""
    attempts.abandon()
    os._exit(TryAgain.exit_code)
