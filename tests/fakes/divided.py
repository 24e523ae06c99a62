"""A stage whose fits only wait and leave a file: who made which, and how often, can be read from its work folder."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

from services.train.fits import make_fits
from services.train.stage import Stage, StageContext, always
from shared.logs import Logger

STEPS = 4
HELPS = multiprocessing.parent_process() is not None


class Waits:
    """Fits named by number. `settings.txt` in the run folder: how many, seconds of each, and who cannot make any.

    A leader of several begins when a helper has begun.
    """

    steps, unit = STEPS, "step"

    def __init__(self, ctx: StageContext) -> None:
        count, seconds, self.wrong = (ctx.run_folder / "settings.txt").read_text().split()
        self.ctx, self.names, self.seconds = ctx, [f"{number}/a" for number in range(int(count))], float(seconds)

    def file(self, name: str) -> Path:
        return self.ctx.work / f"made_{name.partition('/')[0]}"

    def is_made(self, name: str) -> bool:
        return self.file(name).exists()

    def make(self, name: str, step: Callable[[], None]) -> None:
        begun = self.ctx.run_folder / "begun.txt"
        while not HELPS and self.ctx.threads > 1 and self.wrong != "leader" and not begun.exists():
            time.sleep(0.02)
        with begun.open("a") as file:
            file.write(f"{name} {os.getpid()} {int(HELPS)}\n")
        if self.wrong == ("helper" if HELPS else "leader"):
            raise ValueError(f"the {self.wrong} cannot make {name}")
        for number in range(STEPS):
            time.sleep(self.seconds / STEPS)
            self.ctx.log.epoch({"loss/train": 1.0}, epoch=number, model=name)
            step()
        self.file(name).write_text(str(os.getpid()))

    def share(self, name: str) -> None:
        raise AssertionError(name)


def run(ctx: StageContext) -> None:
    make_fits(ctx, "waits", Waits(ctx))


STAGE = Stage("divided", 1, run, always(), always(), fits=Waits)


def context(folder: Path, threads: int, fits: int, seconds: float, wrong: str = "nothing") -> StageContext:
    """A context for it in `folder`."""
    (folder / "settings.txt").write_text(f"{fits} {seconds} {wrong}")
    return StageContext(
        stage=STAGE,
        sections={},
        files={},
        run_folder=folder,
        staging=folder / "staging",
        work=folder / "work",
        cache=folder / "cache",
        device="cpu",
        threads=threads,
        input_paths=frozenset(),
        output_paths=frozenset(),
        log=Logger(folder / "logs", quiet=True),
    )
