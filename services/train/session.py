"""One invocation of the pipeline: config in, run folder and manifest out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from services.train.artifact_manifests import missing_artifact_manifests
from services.train.manifest_writer import MANIFEST, ManifestWriter, file_record
from services.train.pipeline import PIPELINE
from services.train.runner import Runner, Selection, Step
from services.train.team import ALONE, Team
from shared.checkpoint import Checkpoint
from shared.config import Config
from shared.config.load import LoadedConfig, resolve_input, validate
from shared.errors import GowhyError, MissingInput
from shared.log_writers import open_writers
from shared.logs import Logger
from shared.manifest import EnvLock, Manifest, load_manifest
from shared.nn.device import resolve_device
from shared.nn.seeding import make_deterministic
from shared.progress import set_quiet
from shared.stores import MemoryStore, Store, open_store

TERM_PRIORS = "parsed/term_priors.parquet"


@dataclass(frozen=True, slots=True)
class Session:
    """A config, where it runs, and what is allowed."""

    loaded: LoadedConfig
    config: Config
    env_lock: EnvLock
    repository: Path
    quiet: bool = False
    team: Team = ALONE
    device: torch.device | None = None  # None: the config's

    @property
    def run_folder(self) -> Path:
        """`<paths.out>/<run id>`."""
        return self.config.paths.out / self.loaded.run_id

    def plan(self, only: str | None, from_stage: str | None) -> list[dict[str, str]]:
        """What `run` would do with each stage, and why."""
        runner = self._runner(Logger(None, quiet=True), self._store())
        return [asdict(step) for step in runner.plan(Selection(only, from_stage))]

    def follow(self) -> None:
        """Share the fits of the process that runs."""
        make_deterministic(self.config.threads)
        set_quiet(True)
        self._runner(Logger(None, quiet=True), MemoryStore()).follow()

    def run(self, only: str | None, from_stage: str | None) -> dict[str, Any]:
        """Bring the run up to date; the manifest is complete only when every stage is."""
        make_deterministic(self.config.threads)
        store = self._store()
        writers = open_writers(self.config.logs, self.loaded.run_id, self.config.paths.out)
        log = Logger(self.run_folder / "logs", writers, quiet=self.quiet)
        writer = ManifestWriter(
            PIPELINE, self.config, self.loaded.run_id, self.run_folder, self.repository, self.env_lock, store
        )
        runner = self._runner(log, store)
        announced: set[str] = set()

        def on_milestone(checkpoints: Mapping[str, Checkpoint], step: Step) -> None:
            # A run that only skips must not take a complete manifest away from its readers.
            if step.action != "skip" or announced:
                announced.add(step.stage)
                writer.write(checkpoints, "partial")

        runner.on_milestone = on_milestone
        log.event(f"run {self.loaded.run_id} in {self.run_folder}", device=runner.device, threads=self.config.threads)
        finished = False
        try:
            steps = runner.run(Selection(only, from_stage))
            finished = True
        except GowhyError as error:
            log.event(f"stopped: {error}", code=error.code)
            raise
        finally:
            log.close(finished=finished)
        complete = len(runner.checkpoints) == len(PIPELINE)
        if complete and (announced or not self._manifest_holds(runner.checkpoints)):
            writer.write(runner.checkpoints, "complete")
        if complete:
            point_latest(self.run_folder)
        return self._result(steps, complete)

    def _result(self, steps: list[Step], complete: bool) -> dict[str, Any]:
        where = {
            "manifest": str(self.run_folder / MANIFEST),
            "submission": str(self.run_folder / "submission.tsv"),
            "metrics": str(self.run_folder / "metrics.json"),
        }
        return {
            "run_id": self.loaded.run_id,
            "status": "complete" if complete else "partial",
            "steps": [asdict(step) for step in steps],
            "where": where if complete else {"run folder": str(self.run_folder)},
        }

    def _manifest_holds(self, checkpoints: Mapping[str, Checkpoint]) -> bool:
        """True when the manifest on disk is complete, about these checkpoints and configs, and its folders have theirs.

        Another config may come to the same checkpoints: written otherwise, or with another device.
        """
        try:
            manifest: Manifest = load_manifest(self.run_folder / MANIFEST, verify=False)
        except GowhyError:
            return False
        same = {s.id: s.fingerprint for s in manifest.stages} == {c.stage: c.fingerprint for c in checkpoints.values()}
        same = same and all(file_record(self.run_folder, record.path) == record for record in manifest.files)
        return same and not missing_artifact_manifests(self.run_folder)

    def _store(self) -> Store:
        return open_store(self.config.store.url, self.config.paths.out / "cache", self.config.store)

    def _runner(self, log: Logger, store: Store) -> Runner:
        device = self.device or resolve_device(self.config.device)
        torch.set_num_threads(self.config.threads)
        return Runner(PIPELINE, self.config, self.run_folder, store, log, device=str(device), team=self.team)


def point_latest(run_folder: Path) -> None:
    """Let `out/latest` name the newest complete run; replaced in one step."""
    link = run_folder.parent / "latest"
    temporary = run_folder.parent / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(run_folder.name)
    temporary.replace(link)


def evaluation_inputs(manifest_path: Path) -> tuple[Path, Path, Path, Path]:
    """The files that `evaluate --from-manifest` compares: predictions, truth, ontology, information accretion.

    Without `data.ia` the accretion is the one that the run computed from its own fit proteins, so that
    the figures are those of the run's metrics.json.

    Raises:
        MissingInput: the run had no test truth.
    """
    manifest = load_manifest(manifest_path)
    folder = manifest_path.parent
    resolved = json.loads((folder / manifest.config_resolved_path).read_bytes())
    # Only what is needed: the run may come from a version with other keys elsewhere.
    config = validate({name: resolved[name] for name in ("data", "paths")}, where=str(manifest_path))
    data = config.data
    if data.test_terms is None or data.obo is None:
        raise MissingInput(
            "the run has no test truth",
            where=str(manifest_path),
            remedy="Give data.test_terms, or use --pred and --truth",
        )
    ia = resolve_input(data.ia, config) if data.ia is not None else folder / TERM_PRIORS
    return folder / "submission.tsv", resolve_input(data.test_terms, config), resolve_input(data.obo, config), ia
