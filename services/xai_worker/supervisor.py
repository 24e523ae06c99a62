"""Keep a few processes running: start each again when it dies, kill one that stands still, stop all in order."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import ConfigError, EnvMismatch, MissingInput, NotPermitted, UsageError

LOG = logging.getLogger(__name__)
REPOSITORY = Path(__file__).resolve().parents[2]
# What a restart cannot cure: the process has said why, and everything ends with its exit code.
HOPELESS = {error.exit_code for error in (UsageError, MissingInput, NotPermitted, ConfigError, EnvMismatch)}
FIRST_WAIT_S, LONGEST_WAIT_S, STABLE_S = 0.2, 5.0, 30.0
FIRST_PULSE_S = 60.0  # imports come before the first pulse
LOOK_S = 0.1


@dataclass
class Role:
    """One process that is kept running.

    Args:
        name: for the log.
        command: what is run; `{pulse}` stands for the descriptor that gets a byte per heartbeat.
        environment: all of it.
        inherited: descriptors that it keeps open.
        pulse_s: longest silence on the pulse; None: it has none.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    inherited: tuple[int, ...] = ()
    pulse_s: float | None = None
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    heard: float = 0.0
    start_at: float = 0.0
    wait_s: float = FIRST_WAIT_S
    _pulse: int | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it; its standard input stays open until `release` or our death."""
        self.close_pulse()
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        try:
            self.process = subprocess.Popen(
                [part.format(pulse=writing) for part in self.command],
                stdin=subprocess.PIPE,
                env=dict(self.environment),
                cwd=REPOSITORY,
                pass_fds=(*self.inherited, writing),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        self._pulse, self.started = reading, time.monotonic()
        self.heard = self.started + FIRST_PULSE_S
        LOG.info("started", extra={"fields": {"role": self.name, "pid": self.process.pid}})

    def listen(self) -> None:
        """Hear the pulse; kill the process if it has none any more."""
        assert self._pulse is not None  # noqa: S101
        assert self.process is not None  # noqa: S101
        now = time.monotonic()
        try:
            if os.read(self._pulse, 4096):
                self.heard = now
        except BlockingIOError:
            pass
        if self.pulse_s is not None and now - self.heard > self.pulse_s and self.process.poll() is None:
            LOG.error("no pulse: killed", extra={"fields": {"role": self.name, "pid": self.process.pid}})
            self.process.kill()

    def died(self) -> int:
        """Note the death and when to start again; the exit code."""
        assert self.process is not None  # noqa: S101
        code, now = self.process.returncode, time.monotonic()
        if now - self.started > STABLE_S:
            self.wait_s = FIRST_WAIT_S
        self.start_at, self.wait_s = now + self.wait_s, min(LONGEST_WAIT_S, 2 * self.wait_s)
        LOG.warning("ended", extra={"fields": {"role": self.name, "pid": self.process.pid, "code": code}})
        self.release()
        self.process = None
        return code

    def send(self, number: int) -> None:
        """A signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end, and force it; the exit code."""
        if self.process is None:
            return None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def release(self) -> None:
        """Close its standard input: it need not wait for others any more."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.close_pulse()

    def close_pulse(self) -> None:
        """Give the descriptor back."""
        if self._pulse is not None:
            os.close(self._pulse)
            self._pulse = None


class Supervisor:
    """Runs roles until SIGTERM or SIGINT.

    Args:
        first: ended first, and waited for; the workers.
        last: told to stop at the same time, but released only when the first have gone; the HTTP process.
        stop_s: longest wait for each of the two.
    """

    def __init__(self, first: Sequence[Role], last: Sequence[Role], stop_s: float) -> None:
        self.first, self.last, self.stop_s = first, last, stop_s
        self._stop = threading.Event()

    def run(self) -> int:
        """The exit code: 0 after a signal, or that of a role which no restart can cure."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        code = 0
        while code == 0 and not self._stop.wait(LOOK_S):
            code = self._look()
        for role in (*self.first, *self.last):
            role.send(signal.SIGTERM)
        codes = [role.wait(self.stop_s) for role in self.first]
        for role in self.last:
            role.release()
        codes += [role.wait(self.stop_s) for role in self.last]
        for role in self.first:
            role.release()
        LOG.info("stopped", extra={"fields": {"codes": codes}})
        return code

    def _look(self) -> int:
        """Start what is down, hear who lives; the code of a role that cannot be cured."""
        for role in (*self.last, *self.first):
            if role.process is None:
                if time.monotonic() >= role.start_at:
                    role.start()
            elif role.process.poll() is not None:
                if (code := role.died()) in HOPELESS:
                    return code
            else:
                role.listen()
        return 0
