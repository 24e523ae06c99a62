"""Bring stages up to date: skip what still holds, restore what the store has, run the rest.

The rules, in the order in which they protect a run:

1. One process per run folder (an operating-system lock, released by any death).
2. A stage writes into a staging folder; its files are renamed into place only when all are there.
3. The checkpoint is written last: its existence means that every output is complete.
4. A checkpoint counts only if its fingerprint is the wanted one and every output still hashes to it.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from services.train.earlier import earlier_runs, none_earlier
from services.train.peak import give_back, peak_bytes, reset_peak
from services.train.stage import Fits, Stage, StageContext
from services.train.team import ALONE, Team
from shared.atomic import fsync_path, publish, write_json
from shared.checkpoint import Checkpoint, Output, checkpoint_path, parse_checkpoint
from shared.config import Config
from shared.config.load import resolve_input
from shared.digests import digest_of, sha256_file
from shared.env import relevant_versions
from shared.errors import GowhyError, IntegrityError, MissingInput, TryAgain, UsageError, from_os_error
from shared.logs import Logger
from shared.stores import Store

Action = Literal["skip", "restore", "run"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a run would do with one stage, and why."""

    stage: str
    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which stages a command concerns."""

    only: str | None = None  # bring this one up to date; earlier ones must be
    from_stage: str | None = None  # run this one and all later ones again

    def check(self, stages: Sequence[Stage]) -> None:
        """Refuse an unknown stage id, or both at once."""
        known = [stage.id for stage in stages]
        for name in (self.only, self.from_stage):
            if name is not None and name not in known:
                raise UsageError(f"no stage {name!r}", remedy=f"Stages: {', '.join(known)}")
        if self.only and self.from_stage:
            raise UsageError("--only and --from-stage exclude each other")


@dataclass
class Runner:
    """Runs a pipeline in one run folder. `on_milestone` hears of every stage that is up to date."""

    stages: Sequence[Stage]
    config: Config
    run_folder: Path
    store: Store
    log: Logger
    device: str = "cpu"
    team: Team = ALONE
    on_milestone: Callable[[Mapping[str, Checkpoint], Step], None] = lambda _checkpoints, _step: None
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    _file_digests: dict[Path, str] = field(default_factory=dict)

    def run(self, selection: Selection = Selection()) -> list[Step]:
        """Bring the selected stages up to date.

        Returns:
            What was done with each stage.

        Raises:
            TryAgain: another process works in this run folder.
            GowhyError: what a stage raised; finished stages stay finished.
        """
        selection.check(self.stages)
        steps: list[Step] = []
        with run_lock(self.run_folder):
            again = False
            for number, stage in enumerate(self.stages, start=1):
                again = again or stage.id == selection.from_stage
                if selection.only in {s.id for s in self.stages[: number - 1]}:
                    break
                may_run = selection.only in (None, stage.id)
                step = self._bring_up_to_date(stage, again=again, may_run=may_run, number=number)
                steps.append(step)
                self.on_milestone(self.checkpoints, step)
        return steps

    def plan(self, selection: Selection = Selection()) -> list[Step]:
        """What `run` would do, without doing it."""
        selection.check(self.stages)
        steps: list[Step] = []
        changing: set[str] = set()
        again = False
        for stage in self.stages:
            again = again or stage.id == selection.from_stage
            touched = sorted(changing.intersection(stage.inputs(self.config)))
            if touched:
                steps.append(Step(stage.id, "run", f"{touched[0]} will be made again"))
                changing.update(stage.outputs(self.config))
                continue
            inputs = self.inputs_of(stage)
            reason = "asked for by --from-stage" if again else self._why_not_valid(stage, inputs)
            if reason is None:
                steps.append(Step(stage.id, "skip", "up to date"))
            else:
                stored = None if again else self._find_in_store(stage, inputs)
                if stored is not None:
                    self.checkpoints[stage.id] = stored
                    steps.append(Step(stage.id, "restore", f"{reason}; {self.store.url} has it"))
                else:
                    steps.append(Step(stage.id, "run", reason))
                    changing.update(stage.outputs(self.config))
            if selection.only == stage.id:
                break
        return steps

    def follow(self) -> None:
        """Share the leader's fits until it has no more; reads the run folder's inputs, writes nothing.

        Raises:
            TryAgain: another process ended.
            GowhyError: what a fit raised.
        """
        stages = {stage.id: stage for stage in self.stages}
        joined: str = ""
        fits: Fits | None = None
        while (call := self.team.heard()) is not None:
            name, job = call
            if name != joined or fits is None:
                joined, fits = name, None  # lets go of the last stage's data
                fits = self._join(stages[name])
            fits.share(job)

    def _join(self, stage: Stage) -> Fits:
        nowhere = self.run_folder / "read-only"
        ctx = replace(self.context(stage, nowhere, nowhere), cache=nowhere, output_paths=frozenset())
        if stage.fits is None:
            raise GowhyError(f"{stage.id} calls processes that cannot join it", remedy="This is a defect of the stage")
        return stage.fits(ctx)

    def _bring_up_to_date(self, stage: Stage, *, again: bool, may_run: bool, number: int) -> Step:
        inputs = self.inputs_of(stage)
        title = f"[{number}/{len(self.stages)}] {stage.id}"
        reason = "asked for by --from-stage" if again else self._why_not_valid(stage, inputs)
        if reason is None:
            self.log.event(f"{title}: up to date, skipped")
            self._push(self.checkpoints[stage.id])
            return Step(stage.id, "skip", "up to date")
        if not again and (restored := self._restore(stage, inputs)) is not None:
            self.log.event(f"{title}: restored from {self.store.url}")
            self.checkpoints[stage.id] = restored
            return Step(stage.id, "restore", reason)
        if not may_run:
            raise MissingInput(
                f"{stage.id} is not up to date: {reason}", where=str(self.run_folder), remedy="Run without --only first"
            )
        self.log.event(f"{title}: running ({reason})")
        resumed = any((self.run_folder / ".work").glob(f"{stage.id}-*"))
        give_back()
        reset_peak()
        begun = time.monotonic()
        checkpoint, ctx = self._execute(stage, inputs, afresh=again)
        if not resumed and not ctx.taken:  # else a part was paid for earlier
            peak = peak_bytes()
            self.log.cost(stage.id, time.monotonic() - begun, None if peak is None else peak + sum(ctx.helped))
        self.checkpoints[stage.id] = checkpoint
        self._push(checkpoint)
        self.log.event(f"{title}: done in {time.monotonic() - begun:.1f} s", outputs=len(checkpoint.outputs))
        return Step(stage.id, "run", reason)

    def inputs_of(self, stage: Stage) -> dict[str, str]:
        """Everything that decides a stage's outputs: artefacts, files, config sections, library versions."""
        inputs: dict[str, str] = {}
        known = {
            output.path: output.sha256 for checkpoint in self.checkpoints.values() for output in checkpoint.outputs
        }
        for path in stage.inputs(self.config):
            if path not in known:
                raise MissingInput(f"{path} is made by no earlier stage", where=stage.id)
            inputs[path] = known[path]
        for name, section in stage.settings(self.config).items():
            inputs[f"config:{name}"] = digest_of("section", section.fingerprint_values())
        for key, file in self.files_of(stage).items():
            inputs[f"file:{key}"] = self._digest_of_file(key, file)
        inputs["config:threads"] = str(self.config.threads)
        inputs.update({f"env:{name}": version for name, version in relevant_versions().items()})
        return inputs

    def files_of(self, stage: Stage) -> dict[str, Path]:
        """The user's files that a stage's sections name, by config key."""
        return {
            f"{name}.{key}": resolve_input(path, self.config)
            for name, section in stage.settings(self.config).items()
            for key in section.input_files()
            if (path := getattr(section, key)) is not None and (stage.files is None or f"{name}.{key}" in stage.files)
        }

    def _digest_of_file(self, key: str, path: Path) -> str:
        if path not in self._file_digests:
            if path.is_dir():
                names = sorted(item for item in path.rglob("*") if item.is_file())
                self._file_digests[path] = digest_of(
                    "folder", [[str(n.relative_to(path)), sha256_file(n)] for n in names]
                )
            elif path.is_file():
                self._file_digests[path] = sha256_file(path)
            else:
                raise MissingInput(f"no such file: {path}", where=key, remedy=f"Correct it with --set {key}=PATH")
        return self._file_digests[path]

    def _why_not_valid(self, stage: Stage, inputs: Mapping[str, str]) -> str | None:
        """None when the local checkpoint still holds, and it is remembered; else the reason."""
        path = checkpoint_path(self.run_folder, stage.id)
        if not path.is_file():
            return "not done yet"
        try:
            checkpoint = parse_checkpoint(path.read_bytes(), where=str(path))
        except IntegrityError as error:
            self.log.warning(f"damaged checkpoint, the stage runs again: {error}")
            return "its checkpoint is damaged"
        if checkpoint.version != stage.version:
            return f"version {checkpoint.version} -> {stage.version}"
        changed = sorted(key for key in {*inputs, *checkpoint.inputs} if inputs.get(key) != checkpoint.inputs.get(key))
        if changed:
            return f"changed: {', '.join(changed[:4])}{' ...' if len(changed) > 4 else ''}"
        if checkpoint.fingerprint != fingerprint(stage, inputs) or checkpoint.stage != stage.id:
            return "its checkpoint is damaged"
        expected = set(stage.outputs(self.config))
        if {output.path for output in checkpoint.outputs} != expected:
            return "its outputs are declared differently"
        for output in checkpoint.outputs:
            if not output.matches(self.run_folder):
                return f"{output.path} is missing or changed"
        self.checkpoints[stage.id] = checkpoint
        return None

    def _find_in_store(self, stage: Stage, inputs: Mapping[str, str]) -> Checkpoint | None:
        wanted = fingerprint(stage, inputs)
        return next((c for c in self.store.checkpoints() if c.stage == stage.id and c.fingerprint == wanted), None)

    def _restore(self, stage: Stage, inputs: Mapping[str, str]) -> Checkpoint | None:
        try:
            checkpoint = self.store.pull(stage.id, fingerprint(stage, inputs), self.run_folder)
        except IntegrityError as error:
            self.log.warning(f"the store's checkpoint is not usable, the stage runs: {error}")
            return None
        if checkpoint is None or {output.path for output in checkpoint.outputs} != set(stage.outputs(self.config)):
            return None
        write_json(checkpoint_path(self.run_folder, stage.id), checkpoint.to_json())
        return checkpoint

    def _push(self, checkpoint: Checkpoint) -> None:
        push = self.store.push(checkpoint, self.run_folder)
        if push.objects:
            self.log.event(f"  pushed {push.objects} objects, {push.bytes} bytes to {self.store.url}")

    def _execute(self, stage: Stage, inputs: Mapping[str, str], *, afresh: bool) -> tuple[Checkpoint, StageContext]:
        """Run a stage; its checkpoint, and what it ran in; it takes nothing from an earlier run if `afresh`."""
        wanted = fingerprint(stage, inputs)
        staging = self.run_folder / ".staging" / stage.id
        work = self.run_folder / ".work" / f"{stage.id}-{wanted[:16]}"
        shutil.rmtree(staging, ignore_errors=True)
        started = now()
        try:
            staging.mkdir(parents=True)
            work.mkdir(parents=True, exist_ok=True)
            ctx = self.context(stage, staging, work)
            earlier = none_earlier if afresh else partial(earlier_runs, self.run_folder, stage.id, stage.version)
            stage.run(replace(ctx, digests=inputs, earlier=earlier))
            checkpoint = self._commit(stage, inputs, staging, started)
        except OSError as error:
            raise from_os_error(error, f"{stage.id}: {error.filename or self.run_folder}") from error
        except MemoryError as error:
            raise GowhyError(
                "out of memory", where=stage.id, remedy="Lower the batch sizes in the config, or use a larger machine"
            ) from error
        for leftover in (self.run_folder / ".work").glob(f"{stage.id}-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.rmtree(staging, ignore_errors=True)
        return checkpoint, ctx

    def context(self, stage: Stage, staging: Path, work: Path) -> StageContext:
        """What `stage.run` gets."""
        return StageContext(
            stage=stage,
            sections=stage.settings(self.config),
            files=self.files_of(stage),
            run_folder=self.run_folder,
            staging=staging,
            work=work,
            cache=self.config.paths.out / "cache",
            device=self.device,
            threads=self.config.threads,
            input_paths=frozenset(stage.inputs(self.config)),
            output_paths=frozenset(stage.outputs(self.config)),
            log=self.log,
            team=self.team,
        )

    def _commit(self, stage: Stage, inputs: Mapping[str, str], staging: Path, started: str) -> Checkpoint:
        outputs = []
        for path in stage.outputs(self.config):
            if not (staging / path).is_file():
                raise GowhyError(f"{stage.id} ended without writing {path}", remedy="This is a defect of the stage")
            outputs.append(Output.of(staging, path))
        crash_point("before-outputs")
        stale = self._stale_outputs(stage)
        for output in outputs:
            publish(staging / output.path, self.run_folder / output.path)
            crash_point("between-outputs")
        checkpoint = Checkpoint(
            stage.id, stage.version, fingerprint(stage, inputs), dict(inputs), tuple(outputs), started, now()
        )
        crash_point("before-checkpoint")
        write_json(checkpoint_path(self.run_folder, stage.id), checkpoint.to_json())
        for path in stale:
            (self.run_folder / path).unlink(missing_ok=True)
        return checkpoint

    def _stale_outputs(self, stage: Stage) -> list[str]:
        """Outputs of the stage's earlier run that it does not make any more."""
        path = checkpoint_path(self.run_folder, stage.id)
        try:
            earlier = parse_checkpoint(path.read_bytes(), where=str(path))
        except (FileNotFoundError, IntegrityError):
            return []
        return sorted({output.path for output in earlier.outputs} - set(stage.outputs(self.config)))


def crash_point(name: str) -> None:
    """Die here when a test asks for it by `GOWHY_CRASH_AT`; the cheapest proof of the order of writes."""
    if os.environ.get("GOWHY_CRASH_AT") == name:
        os._exit(137)


def fingerprint(stage: Stage, inputs: Mapping[str, str]) -> str:
    """Hash everything that may change a stage's outputs."""
    return digest_of("stage", stage.id, stage.version, dict(inputs))


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@contextmanager
def run_lock(run_folder: Path) -> Iterator[None]:
    """Hold the run folder for this process.

    Raises:
        TryAgain: another process holds it.
        CannotWrite: the folder cannot be made or written.
    """
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(run_folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise from_os_error(error, str(run_folder)) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TryAgain(
                "another process works in this run folder",
                where=str(run_folder),
                remedy="Wait for it, or give this run another name with --set run_id=NAME",
            ) from error
        fsync_path(run_folder)
        yield
    finally:
        os.close(handle)
