"""`python -m services.xai_worker serve`: the whole service, or one part of it.

    supervisor            binds the port, starts the others again when they die, kills a worker without pulse
    |-- api               HTTP; any death of it is seen by clients as a slow answer, because the port stays bound
    `-- worker (1..N)     takes jobs; SQLite allows one, Postgres any number, here and on other hosts
        `-- child         one process per attempt at a job

`--role api` and `--role worker` run one part alone, for other hosts or another supervisor. Standard input of
each is a pipe from its parent: when the parent dies, so do they. SIGTERM: not ready at once, the workers stop
taking jobs and end or hand back what runs, while HTTP goes on to answer (503 to submissions); then exit 0.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from collections.abc import Sequence

from services.xai_worker import logs
from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.settings import WorkerSettings
from services.xai_worker.supervisor import Role, Supervisor
from services.xai_worker.worker.process import CHILD
from shared.errors import UsageError

PROGRAM = (sys.executable, "-m", "services.xai_worker", "serve")
EXTRA_STOP_S = 30.0  # beyond the grace of running jobs, before force
RUN_DIES_WITH_PARENT = 75
DRAIN_NOTICE_S = 1.0  # a lone HTTP process says for so long that it is not ready


def serve(arguments: argparse.Namespace) -> int:
    """The verb: settings from arguments and environment, then the chosen role."""
    logs.configure()
    settings = WorkerSettings.from_environment(
        out=arguments.out, database_url=arguments.database_url, concurrency=arguments.concurrency
    )
    if arguments.role == "worker":
        return run_worker_role(settings, supervised=arguments.supervised, pulse=arguments.pulse)
    http = HttpSettings.from_environment(out=arguments.out, host=arguments.host, port=arguments.port)
    if arguments.role == "api":
        return run_api(settings, http, descriptor=arguments.descriptor, supervised=arguments.supervised)
    return run_all(settings, http, workers=arguments.workers)


def run_all(settings: WorkerSettings, http: HttpSettings, *, workers: int = 1, program: Sequence[str] = PROGRAM) -> int:
    """Supervise HTTP and workers until a signal.

    Args:
        settings: for both.
        http: for HTTP.
        workers: worker processes.
        program: what starts a role; tests put their own there.

    Raises:
        UsageError: more than one worker on SQLite.
        ServiceUnavailable: the port is taken.
    """
    from services.xai_worker.http.server import listen  # noqa: PLC0415 - FastAPI takes a second

    if workers > 1 and settings.database_url.startswith("sqlite"):
        raise UsageError(
            f"{workers} workers on SQLite", where="--workers", remedy="SQLite allows one; use postgresql:// for many"
        )
    listening = listen(http)
    environment = {**os.environ, **settings.environment()}
    secretless = {name: value for name, value in environment.items() if not name.startswith("GOWHY_XAI_TOKEN")}
    host, port = listening.getsockname()[:2]
    api = Role(
        "api",
        [*program, "--role", "api", "--supervised", "--host", http.host, "--port", str(port),
         "--descriptor", str(listening.fileno())],
        environment,
        inherited=(listening.fileno(),),
    )  # fmt: skip
    several = [
        Role(
            f"worker {number}",
            [*program, "--role", "worker", "--supervised", "--pulse", "{pulse}"],
            secretless,
            pulse_s=settings.lease_s,
        )
        for number in range(workers)
    ]
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on http://{shown}:{port}", file=sys.stderr, flush=True)
    return Supervisor(several, [api], settings.drain_s + settings.kill_grace_s + EXTRA_STOP_S).run()


def run_worker_role(
    settings: WorkerSettings, command: Sequence[str] = CHILD, *, supervised: bool = False, pulse: int | None = None
) -> int:
    """One worker process until a signal."""
    from services.xai_worker.worker.service import run_worker  # noqa: PLC0415 - DBOS takes most of a second

    return run_worker(settings, command, supervised=supervised, pulse=pulse)


def run_api(
    settings: WorkerSettings, http: HttpSettings, *, descriptor: int | None = None, supervised: bool = False
) -> int:
    """The HTTP process until a signal, and until the supervisor says that the workers have gone.

    Args:
        settings: the queue's.
        http: where to listen.
        descriptor: a socket that listens already.
        supervised: standard input is a pipe from the supervisor.
    """
    from services.xai_worker.app import create_app  # noqa: PLC0415
    from services.xai_worker.http.server import Server, listen  # noqa: PLC0415
    from services.xai_worker.queue.opening import open_queue  # noqa: PLC0415

    queue = open_queue(settings)
    released = threading.Event()

    def stop() -> None:
        queue.drain()
        released.wait(settings.drain_s + settings.kill_grace_s + EXTRA_STOP_S if supervised else DRAIN_NOTICE_S)

    def watch() -> None:
        while os.read(0, 1):
            pass
        if not queue.draining:
            os._exit(RUN_DIES_WITH_PARENT)  # the supervisor died
        released.set()

    server = Server(create_app(queue, http), http, stop)
    if supervised:
        threading.Thread(target=watch, name="supervisor", daemon=True).start()
    listening = listen(http) if descriptor is None else socket.socket(fileno=descriptor)
    server.run(sockets=[listening])
    queue.close()
    return 0 if server.started else 69
