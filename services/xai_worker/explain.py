"""Explain a run's predictions: choose, check parity, attribute, write, publish.

The result folder appears whole or not at all, and result.json in it was written last. A complete
result of the same request is given back as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from services.xai_worker.folder import published, read_complete, write_result
from services.xai_worker.job import Job
from services.xai_worker.localisation import Localisation, Sites, headline, read_sites
from services.xai_worker.output import LOCALISATION, job_files
from services.xai_worker.provenance import Provenance, provenance_of
from services.xai_worker.report import IndexRow
from services.xai_worker.request import ExplainRequest
from services.xai_worker.result import SCHEMA_VERSION, ResidueExplanation
from services.xai_worker.stored import StoredRun
from shared.atomic import write_json
from shared.digests import sha256_file
from shared.errors import IntegrityError
from shared.logs import Logger
from shared.manifest import EnvLock, load_manifest
from shared.models.trained import TrainedModel
from shared.nn.device import resolve_device
from shared.progress import progress

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


def explain_manifest(
    manifest_path: Path,
    request: ExplainRequest,
    machine: Machine,
    *,
    sites: Path | None = None,
    job_id: str | None = None,
) -> Outcome:
    """Explain a complete run.

    Args:
        manifest_path: manifest.json in the run folder; verified before anything else is read.
        request: what to explain.
        machine: where.
        sites: table of known sites to measure the explanations against.
        job_id: names the result folder; None derives it from the request, so that equal requests share it.

    Raises:
        IntegrityError: the run is incomplete, or its files are not what the manifest says.
        ParityError: this environment computes another score than the run stored.
        MissingInput: the run does not have what is asked.
    """
    manifest = load_manifest(manifest_path)
    if manifest.model is None:
        raise IntegrityError("the run has no model bundle", where=str(manifest_path), remedy="Run the pipeline again")
    known = None if sites is None else read_sites(sites)
    digest = None if sites is None else sha256_file(sites)
    name = job_id or request.job_id(manifest.model.sha256, digest)
    folder = manifest_path.parent / XAI
    if (earlier := reusable(folder / name)) is not None:
        return earlier
    run = StoredRun(manifest_path.parent)
    device = str(resolve_device(machine.device))
    model = TrainedModel.load(manifest_path, device=device)
    provenance = provenance_of(
        manifest,
        job_id=name,
        ontology_version=run.ontology.version,
        env_lock=machine.env_lock,
        device=device,
        threads=machine.threads,
    )
    log = Logger(manifest_path.parent / LOGS, quiet=machine.quiet)
    return explain(Job(run, model, request, log), provenance, folder, sites=known)


def explain(job: Job, provenance: Provenance, folder: Path, *, sites: Sites | None = None) -> Outcome:
    """Make one job's result folder, or give back the complete one that is there.

    Args:
        job: run, bundle and request.
        provenance: its `job_id` names the folder.
        folder: the run's xai folder; the result is `folder/<job_id>`.
        sites: known sites to measure the explanations against.

    Raises:
        ParityError: another model would be explained; nothing is published.
        MissingInput: the run does not have what is asked.
    """
    final = folder / provenance.job_id
    if (reused := reusable(final)) is not None:
        return reused
    known = None if sites is None else _canonical(sites, job.run)
    with published(final) as staging, torch_threads(provenance.threads):
        job.choose(known)
        _check_all(job)
        measured = None if known is None else Localisation(known)
        with job_files(staging, provenance) as files, progress("proteins", len(job.targets), "protein") as bar:
            for target in job.targets:
                found = job.explain(target)
                files.add_protein(found.documents, target.sequence)
                files.add_mutations(found.scans)
                for made in found.documents:
                    if measured is not None and isinstance(made, ResidueExplanation):
                        measured.add(made)
                bar.advance()
            summary = None if measured is None else measured.summary()
            files.finish(summary)
            counted = _counts(files.rows)
        if summary is not None:
            write_json(staging / LOCALISATION, summary)
        said = None if summary is None else headline(summary)
        write_result(staging, _result(job, provenance, counted, said))
    result = read_complete(final)
    assert result is not None, "a published folder is complete"  # noqa: S101
    job.log.event("explained", job=provenance.job_id, **counted)
    return Outcome(final, result, reused=False, localisation=said)


def reusable(final: Path) -> Outcome | None:
    """The complete result of an earlier, equal request."""
    result = read_complete(final)
    return None if result is None else Outcome(final, result, reused=True, localisation=result.get("localisation"))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Sums depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_all(job: Job) -> None:
    """Parity of every path first: a model that differs is refused in seconds, not after hours."""
    with progress("parity", len(job.targets), "protein") as bar:
        for target in job.targets:
            for planned in job.plan(target):
                job.check(target, planned.path, planned.terms)
            bar.advance()


def _result(job: Job, provenance: Provenance, counted: Mapping[str, int], said: str | None) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "complete",
        "request": job.request.model_dump(mode="json"),
        "counts": dict(counted),
        "localisation": said,
        "provenance": provenance.model_dump(mode="json"),
    }


def _counts(rows: Sequence[IndexRow]) -> dict[str, int]:
    gates = [row.explanation.gates.completeness for row in rows]
    return {
        "explanations": len(rows),
        "proteins": len({row.explanation.protein for row in rows}),
        "not_converged": sum(gate is not None and not gate.converged for gate in gates),
    }


def _canonical(sites: Sites, run: StoredRun) -> dict[tuple[str, str], frozenset[int]]:
    """Sites under canonical term ids; those of alternative ids are joined."""
    found: dict[tuple[str, str], frozenset[int]] = {}
    for (protein, term), positions in sites.items():
        key = (protein, run.ontology.resolve(term) or term)
        found[key] = found.get(key, frozenset()) | positions
    return found
