"""Explain a run's predictions: choose, check parity, attribute, write, publish.

The result folder appears whole or not at all, and result.json in it was written last. A complete
result of the same request is given back as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from services.xai_worker.batch import Workers, code_digest, finish_all, read_all
from services.xai_worker.exports import EXPORTERS
from services.xai_worker.folder import Gate, published, read_complete, write_result
from services.xai_worker.job import Job, Observer
from services.xai_worker.localisation import Localisation, Sites, headline, read_sites
from services.xai_worker.output import LOCALISATION, job_files
from services.xai_worker.parts import Parts
from services.xai_worker.provenance import Provenance, provenance_of
from services.xai_worker.report import IndexRow
from services.xai_worker.report.ui import bundle
from services.xai_worker.request import ExplainRequest
from services.xai_worker.result import SCHEMA_VERSION, ResidueExplanation
from services.xai_worker.stored import StoredRun
from services.xai_worker.structure import Structure, read_structure
from services.xai_worker.unseen import Computed, UnseenRun, compute
from shared.atomic import write_json
from shared.digests import sha256_file
from shared.errors import IntegrityError, MissingInput
from shared.fasta import read_unique_fasta
from shared.logs import Logger
from shared.manifest import EnvLock, load_manifest
from shared.models.trained import TrainedModel
from shared.nn.device import resolve_device
from shared.nn.runtime import torch_threads
from shared.progress import progress, set_quiet

XAI, LOGS = "xai", "logs/xai"  # below the run folder


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where the result is, what it says, and whether it was there before."""

    folder: Path
    result: dict[str, Any]
    reused: bool
    localisation: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how a job computes. One thread is fastest: threads inside an operator on one protein wait for each other."""

    env_lock: EnvLock
    device: str = "auto"
    threads: int = 1
    quiet: bool = False
    batch_halvings: int = 0  # after running out of memory; may change last bits, so it is 0 at first


@dataclass(frozen=True, slots=True)
class Attempt:
    """What the queue adds to a job: leave to publish, and an ear for progress.

    Args:
        gate: passed before publishing.
        report: told {"done", "total", "protein", "model", "method"} at the start of each method; `done` counts proteins.
    """

    gate: Gate
    report: Callable[[Mapping[str, Any]], None]

    def watch(self, total: int) -> Observer:
        """An observer of the job's methods that adds how many of the proteins are done."""
        seen: list[str] = []

        def observe(protein: str, model: str, method: str) -> None:
            if protein not in seen[-1:]:
                seen.append(protein)
            done = {"done": len(seen) - 1, "total": total}
            self.report({**done, "protein": protein, "model": model, "method": method})

        return observe


@dataclass(frozen=True, slots=True)
class Options:
    """What a request does not say: formats, structures, proteins from a file, processes.

    Args:
        exports: names of formats.
        structures: protein -> PDB or mmCIF file.
        fasta: proteins that the run has never seen; the request names its ids.
        jobs: processes.
    """

    exports: tuple[str, ...] = tuple(EXPORTERS)
    structures: Mapping[str, Path] = field(default_factory=dict)
    fasta: Path | None = None
    jobs: int = 1

    def digests(self) -> list[object]:
        """What decides the result's bytes: everything but the number of processes."""
        files = {protein: sha256_file(_there(path)) for protein, path in sorted(self.structures.items())}
        fasta = None if self.fasta is None else sha256_file(_there(self.fasta))
        return [sorted(self.exports), files, fasta, bundle.digests()]


@dataclass(frozen=True, slots=True)
class Reopen:
    """Opens the same job in a child process; the parent has verified every file."""

    manifest_path: Path
    request: ExplainRequest
    machine: Machine
    provenance: Provenance
    fasta: Path | None
    sites: Path | None

    def __call__(self) -> tuple[Job, Parts]:
        """The job with its targets chosen, and where finished proteins go."""
        torch.set_num_threads(self.provenance.threads)
        set_quiet(quiet=True)
        run_folder = self.manifest_path.parent
        model = TrainedModel.load(self.manifest_path, device=self.provenance.device)
        name, halvings = self.provenance.job_id, self.machine.batch_halvings
        parts = Parts(run_folder / XAI / name, self.provenance, code_digest(halvings))
        run = _run_of(run_folder, model, self.fasta, parts)
        job = Job(run, model, self.request, Logger(run_folder / LOGS, quiet=True), batch_halvings=halvings)
        job.choose(None if self.sites is None else _canonical(read_sites(self.sites), run))
        return job, parts


def explain_manifest(
    manifest_path: Path,
    request: ExplainRequest,
    machine: Machine,
    *,
    sites: Path | None = None,
    job_id: str | None = None,
    attempt: Attempt | None = None,
    options: Options | None = None,
) -> Outcome:
    """Explain a complete run.

    Args:
        manifest_path: manifest.json in the run folder; verified before anything else is read.
        request: what to explain.
        machine: where.
        sites: table of known sites to measure the explanations against.
        job_id: names the result folder; None derives it from the request, so that equal requests share it.
        attempt: what the queue adds; None for an in-process explain.
        options: formats, structures, proteins from a file, processes.

    Raises:
        IntegrityError: the run is incomplete, or its files are not what the manifest says.
        ParityError: this environment computes another score than the run stored.
        MissingInput: the run does not have what is asked.
    """
    manifest = load_manifest(manifest_path)
    if manifest.model is None:
        raise IntegrityError("the run has no model bundle", where=str(manifest_path), remedy="Run the pipeline again")
    options = options or Options()
    known = None if sites is None else read_sites(sites)
    digest = None if sites is None else sha256_file(sites)
    name = job_id or request.job_id(manifest.model.sha256, digest, *options.digests())
    folder = manifest_path.parent / XAI
    if (earlier := reusable(folder / name)) is not None:
        return earlier
    device = str(resolve_device(machine.device))
    model = TrainedModel.load(manifest_path, device=device)
    provenance = provenance_of(
        manifest,
        job_id=name,
        ontology_version=model.ontology.version,
        env_lock=machine.env_lock,
        device=device,
        threads=machine.threads,
        compared_with="stored" if options.fasta is None else "computed",
    )
    log = Logger(manifest_path.parent / LOGS, quiet=machine.quiet)
    parts = Parts(folder / name, provenance, code_digest(machine.batch_halvings))
    run = _run_of(manifest_path.parent, model, options.fasta, parts)
    if isinstance(run, UnseenRun):
        provenance = provenance.model_copy(update={"notes": _notes_of(run)})
        for note in provenance.notes:
            log.warning("unseen_proteins", note=note)
    opener = Reopen(manifest_path, request, machine, provenance, options.fasta, sites)
    job = Job(run, model, request, log, batch_halvings=machine.batch_halvings)
    workers = Workers(options.jobs, opener)
    return explain(job, provenance, folder, sites=known, attempt=attempt, options=options, workers=workers)


def explain(
    job: Job,
    provenance: Provenance,
    folder: Path,
    *,
    sites: Sites | None = None,
    attempt: Attempt | None = None,
    options: Options | None = None,
    workers: Workers | None = None,
) -> Outcome:
    """Make one job's result folder, or give back the complete one that is there.

    Args:
        job: run, bundle and request.
        provenance: its `job_id` names the folder.
        folder: the run's xai folder; the result is `folder/<job_id>`.
        sites: known sites to measure the explanations against.
        attempt: passed before publishing, and told of progress.
        options: formats and structures.
        workers: processes; None explains in this one.

    Raises:
        ParityError: another model would be explained; nothing is published.
        MayNotPublish: the queue does not want the result any more.
        MissingInput: the run does not have what is asked.
    """
    final = folder / provenance.job_id
    if (reused := reusable(final)) is not None:
        return reused
    options = options or Options()
    known = None if sites is None else _canonical(sites, job.run)
    parts = Parts(final, provenance, code_digest(job.batch_halvings))
    gate = None if attempt is None else attempt.gate
    with published(final, gate) as staging, torch_threads(provenance.threads):
        job.choose(known)
        if attempt is not None:
            job.observe = attempt.watch(len(job.targets))
        structures = _structures(job, options)
        _check_all(job, parts)
        finish_all(job, parts, workers or Workers())
        measured = None if known is None else Localisation(known)
        with job_files(staging, provenance, options.exports, structures) as files:
            for target, made in read_all(job, parts):
                files.add_protein(made, target.sequence)
                for item in made.explanations:
                    if measured is not None and isinstance(item, ResidueExplanation):
                        measured.add(item)
            summary = None if measured is None else measured.summary()
            files.finish(summary)
            counted = _counts(files.rows)
        if summary is not None:
            write_json(staging / LOCALISATION, summary)
        said = None if summary is None else headline(summary)
        write_result(staging, _result(job, provenance, counted, said))
    parts.clear()
    result = read_complete(final)
    assert result is not None, "a published folder is complete"  # noqa: S101
    job.log.event("explained", job=provenance.job_id, **counted)
    return Outcome(final, result, reused=False, localisation=said)


def reusable(final: Path) -> Outcome | None:
    """The complete result of an earlier, equal request."""
    result = read_complete(final)
    return None if result is None else Outcome(final, result, reused=True, localisation=result.get("localisation"))


def _check_all(job: Job, parts: Parts) -> None:
    """Parity of every path first: a model that differs is refused in seconds, not after hours."""
    left = [target for target in job.targets if not parts.has(target.protein)]
    with progress("parity", len(left), "protein") as bar:
        for target in left:
            for planned in job.plan(target):
                job.check(target, planned.path, planned.terms)
            bar.advance()


def _run_of(folder: Path, model: TrainedModel, fasta: Path | None, parts: Parts) -> StoredRun:
    """The run itself, or with proteins from a file in place of its test part; their scores are computed once."""
    if fasta is None:
        return StoredRun(folder)
    records = read_unique_fasta(fasta)
    kept = parts.folder / f"computed-{parts.key[:16]}.npz"
    if not kept.is_file():
        compute(model, records).save(kept)
    return UnseenRun(folder, records, Computed.load(kept))


def _notes_of(run: UnseenRun) -> list[str]:
    """What must be said of proteins that came in a file."""
    notes = [
        "These proteins came in a file: the run has stored no scores of them. Parity compares with the scores that "
        "predict computes from sequence and taxon alone, without text and without known annotations."
    ]
    if known := run.also_trained_on:
        names = ", ".join(known[:5]) + (f" and {len(known) - 5} more" if len(known) > 5 else "")
        notes.append(f"The run was fitted on the same sequence as {names}: these scores are not of unseen proteins.")
    return notes


def _structures(job: Job, options: Options) -> dict[str, Structure]:
    """Read every given structure against its protein's sequence before anything is computed."""
    sequences = {target.protein: target.sequence for target in job.targets}
    for protein in options.structures:
        if protein not in sequences:
            raise MissingInput(
                f"a structure is given for {protein!r}, which is not explained",
                where="--structure",
                remedy=f"Proteins: {', '.join(list(sequences)[:5])}",
            )
    return {protein: read_structure(path, protein, sequences[protein]) for protein, path in options.structures.items()}


def _there(path: Path) -> Path:
    if not path.is_file():
        raise MissingInput(f"no such file: {path}")
    return path


def _result(job: Job, provenance: Provenance, counted: Mapping[str, int], said: str | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        "request": job.request.model_dump(mode="json"),
        "counts": dict(counted),
        "localisation": said,
        "provenance": provenance.model_dump(mode="json"),
        **({"batch_halvings": job.batch_halvings} if job.batch_halvings else {}),
    }


def _counts(rows: Sequence[IndexRow]) -> dict[str, int]:
    return {
        "explanations": len(rows),
        "proteins": len({row.protein for row in rows}),
        "not_converged": sum(row.converged is False for row in rows),
    }


def _canonical(sites: Sites, run: StoredRun) -> dict[tuple[str, str], frozenset[int]]:
    """Sites under canonical term ids; those of alternative ids are joined."""
    found: dict[tuple[str, str], frozenset[int]] = {}
    for (protein, term), positions in sites.items():
        key = (protein, run.ontology.resolve(term) or term)
        found[key] = found.get(key, frozenset()) | positions
    return found
