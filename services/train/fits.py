"""Several processes that make a stage's fits beside each other, on the processor: one thread and one fit each.

A fit of these sizes is hardly faster with two threads than with one, while two fits beside each other take as long as one.
So every fit is made with one thread, whoever makes it, and its bytes depend neither on the number of threads nor on
who made it. The leader, which runs the stage, makes fits itself; after `PATIENCE_S` it starts helpers, which read the stage's
inputs again and make others. Who makes a fit holds a lock of the operating system, which any death releases; a fit
that was made has its record in the work folder. Nothing else is agreed on: a helper that ends early costs time only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from services.train.peak import available_bytes, peak_bytes, resident_bytes
from services.train.stage import Fits, StageContext
from shared.logs import Logger
from shared.nn.device import resolve_device
from shared.nn.seeding import make_deterministic
from shared.progress import Progress, is_quiet, set_quiet

PATIENCE_S = 2.0  # a helper takes seconds to start: fits that take less than this are better made alone
WAIT_S = 0.1
HELPER_BYTES = 1 << 30  # that a helper is expected to need beside what the leader holds
SPAWN = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads in an unknown state


def fit_threads(ctx: StageContext) -> int:
    """Threads of one fit, which its bytes depend on: one, but all those of the process that drives a GPU."""
    return 1 if resolve_device(ctx.device).type == "cpu" else ctx.threads


def divides(ctx: StageContext) -> bool:
    """Whether several processes make fits beside each other; those that torchrun started make each fit together."""
    return ctx.threads > 1 and ctx.team.size == 1 and resolve_device(ctx.device).type == "cpu"


def make_fits(ctx: StageContext, what: str, fits: Fits) -> None:
    """Make the fits that are not yet made, with as many processes as the stage has threads.

    Raises:
        GowhyError: what a fit raised. A helper's own failure is a warning, and its fit is made here.
    """
    done = sum(map(fits.is_made, fits.names))
    with ctx.progress(what, len(fits.names) * fits.steps, fits.unit, done * fits.steps) as bar:
        tally = Tally(bar, fits.steps, {name: fits.steps for name in fits.names if fits.is_made(name)})
        with helpers(ctx, fits, tally):
            while left := [name for name in fits.names if not fits.is_made(name)]:
                if not any(_make(ctx, fits, name, tally) for name in left):
                    time.sleep(WAIT_S)  # others make the rest
                    tally.show()
        for name in fits.names:
            tally.finish(name)


def _make(ctx: StageContext, fits: Fits, name: str, tally: Tally | Told) -> bool:
    """Make a fit unless another process does, or did; True where it was made."""
    with claimed(ctx, name) as mine:
        if not mine or fits.is_made(name):
            return False
        fits.make(name, lambda: tally.step(name))
    tally.finish(name)
    return True


@contextlib.contextmanager
def claimed(ctx: StageContext, name: str) -> Iterator[bool]:
    """Hold a fit for this process; False where another holds it."""
    ctx.work.mkdir(parents=True, exist_ok=True)
    handle = os.open(ctx.work / f"{name.replace('/', '_')}.claim", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


@dataclass
class Tally:
    """Counts the steps of all processes' fits on one bar; several threads may call it."""

    bar: Progress
    steps: int  # of each fit
    counted: dict[str, int]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def step(self, name: str) -> None:
        """One more step of a fit."""
        with self.lock:
            self._count(name, min(self.counted.get(name, 0) + 1, self.steps))

    def finish(self, name: str) -> None:
        """A fit is made, in however many steps."""
        with self.lock:
            self._count(name, self.steps)

    def show(self) -> None:
        """Say that work goes on."""
        with self.lock:
            self.bar.show()

    def _count(self, name: str, steps: int) -> None:
        before = self.counted.get(name, 0)
        self.counted[name] = steps
        if steps > before:
            self.bar.advance(steps - before)


@contextlib.contextmanager
def helpers(ctx: StageContext, fits: Fits, tally: Tally) -> Iterator[None]:
    """Have helpers started if the block takes longer than `PATIENCE_S`; they have ended when it has."""
    if not divides(ctx):
        yield
        return
    crew: list[Helper] = []

    def start() -> None:
        try:
            count = helper_count(ctx.threads, sum(not fits.is_made(name) for name in fits.names))
            crew.extend(Helper(ctx, fits.names, tally) for _ in range(count))  # keeps those before a refused one
        except OSError as error:
            ctx.log.warning(f"no helper can be started, this process makes the fits: {error}")

    timer = threading.Timer(PATIENCE_S, start)
    timer.start()
    whole = False
    try:
        yield
        whole = True
    finally:
        timer.cancel()
        timer.join()
        for helper in crew:
            helper.end(at_once=not whole)
    ctx.helped.extend(helper.peak for helper in crew)


def helper_count(threads: int, open_fits: int) -> int:
    """Processes beside this one: no more than threads or fits, nor than memory is free for (one at least)."""
    wanted = min(threads, open_fits) - 1
    free, held = available_bytes(), resident_bytes()
    if free is None or held is None:
        return max(0, wanted)
    return max(0, min(wanted, max(1, int(free // (held + HELPER_BYTES)))))


class Helper:
    """One helper as its leader sees it: a process, and a thread that hears it."""

    def __init__(self, ctx: StageContext, names: Sequence[str], tally: Tally) -> None:
        self.log, self.tally = ctx.log, tally
        self.peak = 0
        self.worked = False  # else it still reads its inputs
        self.heard, told = SPAWN.Pipe(duplex=False)
        task = Task.of(ctx, tuple(names))
        self.process: SpawnProcess = SPAWN.Process(target=work, args=(task, told), daemon=True)
        self.process.start()
        told.close()  # so that the end of the process ends `listen`
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self) -> None:
        """Do what the helper says, until it ends."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                what, *about = self.heard.recv()
                self.worked = True
                if what == "peak":
                    self.peak = about[0]
                elif what in ("step", "finish"):
                    getattr(self.tally, what)(*about)
                else:
                    call, args, keywords = about
                    getattr(self.log, call)(*args, **keywords)

    def end(self, *, at_once: bool) -> None:
        """Let the helper finish its sentence if it has begun one, and have it ended."""
        if at_once or not self.worked:
            self.process.terminate()
        self.process.join()
        self.thread.join()
        self.heard.close()


@dataclass(frozen=True, slots=True)
class Task:
    """What a helper is given; it crosses by pickle, from the leader to a process that the leader started."""

    module: str  # has the `STAGE`
    context: dict[str, Any]  # fields of the leader's context
    names: tuple[str, ...]
    quiet: bool

    @classmethod
    def of(cls, ctx: StageContext, names: tuple[str, ...]) -> Task:
        """The task of a stage's helper. A bar is the leader's alone; plain lines of several processes may mix."""
        own = {"stage", "log", "team", "digests", "earlier", "taken", "helped"}
        context = {item.name: getattr(ctx, item.name) for item in dataclasses.fields(ctx) if item.name not in own}
        return cls(ctx.stage.run.__module__, context, names, is_quiet() or sys.stderr.isatty())


@dataclass(frozen=True, slots=True)
class Told:
    """Tells the leader how far a fit is; see `Tally`."""

    leader: Connection

    def step(self, name: str) -> None:
        """One more step of a fit."""
        self.leader.send(("step", name))

    def finish(self, name: str) -> None:
        """A fit is made."""
        self.leader.send(("finish", name))


class ToldLogger(Logger):
    """Has the leader log: it holds the run's files and the connections to trackers."""

    def __init__(self, leader: Connection) -> None:
        super().__init__(None)
        self.leader = leader

    def event(self, message: str, **fields: Any) -> None:
        """See `Logger`."""
        self.leader.send(("log", "event", (message,), fields))

    def step(self, metrics: Any, **context: Any) -> None:
        """See `Logger`."""
        self.leader.send(("log", "step", (metrics,), context))

    def epoch(self, metrics: Any, **context: Any) -> None:
        """See `Logger`."""
        self.leader.send(("log", "epoch", (metrics,), context))


def work(task: Task, leader: Connection) -> None:
    """A helper's life: read what the stage reads, then make every fit that nobody else makes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the leader decides
    threading.Thread(target=end_with_leader, daemon=True).start()
    set_quiet(task.quiet)
    make_deterministic(1)
    log = ToldLogger(leader)
    try:
        stage = importlib.import_module(task.module).STAGE
        ctx = StageContext(stage=stage, log=log, **task.context)
        fits: Fits = stage.fits(ctx)
        told = Told(leader)
        for name in task.names:
            if _make(ctx, fits, name, told):
                leader.send(("peak", peak_bytes() or 0))
    except Exception as error:  # noqa: BLE001 - whatever it is, the leader makes the fit itself, and meets it as its own
        log.warning(f"a helper ended, its fits are made by the others: {type(error).__name__}: {error}")


def end_with_leader() -> None:
    """End this process when the one that started it does."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
