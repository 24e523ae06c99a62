"""Optional receivers of the metrics, by name in `logs.writers`; see `WRITERS`.

Their packages are imported only when one is asked for. Add one: a file with `open`, and a line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from shared.config.logs import LogsConfig
from shared.errors import MissingInput
from shared.log_writers import mlflow, wandb
from shared.logs import Writer

# package, config, run's name, `paths.out` -> a writer
Open = Callable[[ModuleType, LogsConfig, str, Path], Writer]

WRITERS: dict[str, Open] = {"mlflow": mlflow.open_writer, "wandb": wandb.open_writer}


def open_writers(config: LogsConfig, run_id: str, out: Path) -> tuple[Writer, ...]:
    """Every writer that the config asks for.

    Args:
        config: which, and where they write.
        run_id: how the run is called there; a resumed run is found again by it.
        out: `paths.out`; writers without a server write below it.

    Raises:
        MissingInput: the package of a writer is not installed.
        ServiceUnavailable: its server does not answer.
    """
    return tuple(WRITERS[name](_package(name), config, run_id, out) for name in dict.fromkeys(config.writers))


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingInput(
            f"the package {error.name} is not installed",
            where="logs.writers",
            remedy=f"Install {name} in the environment, or leave it out: --set 'logs.writers=[]'",
        ) from error
