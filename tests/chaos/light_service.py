"""`serve` with the light child: `python -m tests.chaos.light_service [--role ...]`, otherwise the real program."""

from __future__ import annotations

import sys

from services.xai_worker import logs
from services.xai_worker import serve as service
from services.xai_worker.cli import build_parser
from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.settings import WorkerSettings
from shared.edge import run_command

LIGHT = (sys.executable, "-m", "tests.fakes.light_child")
PROGRAM = (sys.executable, "-m", "tests.chaos.light_service")


def serve(arguments) -> int:
    logs.configure()
    settings = WorkerSettings.from_environment()
    if arguments.role == "worker":
        return service.run_worker_role(settings, LIGHT, supervised=arguments.supervised, pulse=arguments.pulse)
    http = HttpSettings.from_environment(host=arguments.host, port=arguments.port)
    if arguments.role == "api":
        return service.run_api(settings, http, descriptor=arguments.descriptor, supervised=arguments.supervised)
    return service.run_all(settings, http, workers=arguments.workers, program=PROGRAM)


if __name__ == "__main__":
    raise SystemExit(run_command(serve, build_parser().parse_args(["serve", *sys.argv[1:]])))
