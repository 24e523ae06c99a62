"""From the body of a POST to a checked submission: what is asked, of which run, and how much work that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from services.xai_worker.http.json_body import parse_json
from services.xai_worker.http.problem import Problem, explain
from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.manifests import Run, Runs, canonical_digest, checked
from services.xai_worker.queue.base import Submission
from services.xai_worker.request import DEFAULT_PROTEINS, DEFAULT_TERMS, ExplainRequest
from services.xai_worker.volume import MANIFEST, OutOfSight, run_named
from shared.digests import canonical_json, digest_of
from shared.manifest.reading import MAX_BYTES

NAMED = 3  # unknown proteins that an error lists


class JobRequest(ExplainRequest):
    """What to explain, of which run: its id, or the path of its manifest on the volume."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"run_id": "demo-0a1b2c3d4e5f", "proteins": ["P12345"], "top_k": 3}]}
    )

    run_id: str | None = Field(None, max_length=200, description="or `latest`: the newest complete run")
    manifest: str | None = Field(None, max_length=300, description="such as out/<run_id>/manifest.json")

    @model_validator(mode="after")
    def _one_run(self) -> Self:
        if (self.run_id is None) == (self.manifest is None):
            raise ValueError("give run_id or manifest, one of them")
        return self

    def explain_request(self) -> ExplainRequest:
        """Without the run."""
        return ExplainRequest.model_validate(self.model_dump(exclude={"run_id", "manifest"}))


class Asked:
    """A body that was read, before anything on the volume is looked at; `fingerprint` tells replays apart."""

    def __init__(self, body: bytes) -> None:
        self.value = _object(parse_json(body))
        self.fingerprint = digest_of("submission", self.value)
        self.size = len(body)

    @property
    def is_manifest(self) -> bool:
        """Whether the body is a run's manifest itself."""
        return "manifest_version" in self.value


class Intake:
    """Checks what is asked against the volume and the bounds of one job."""

    def __init__(self, runs: Runs, settings: HttpSettings) -> None:
        self.runs, self.settings = runs, settings

    def submission(self, asked: Asked, **about: Any) -> Submission:
        """The submission of a body.

        Args:
            asked: the body.
            about: owner, idempotency_key, request_id, traceparent.

        Raises:
            Problem: with the reason.
        """
        run, request = self._of_manifest(asked) if asked.is_manifest else self._of_request(asked.value)
        return Submission(
            run_id=run.run_id,
            manifest=f"{run.run_id}/{MANIFEST}",
            manifest_sha256=run.sha256,
            request=request.model_dump(mode="json"),
            fingerprint=asked.fingerprint,
            work_units=self._work(run, request),
            **about,
        )

    def _of_manifest(self, asked: Asked) -> tuple[Run, ExplainRequest]:
        if asked.size > MAX_BYTES:
            raise Problem("too-large", f"A manifest has at most {MAX_BYTES} bytes")
        run_id = checked(canonical_json(asked.value), where="The manifest sent").run_id
        run = self.runs.get(run_id)
        if run.run_id != run_id or run.canonical != canonical_digest(asked.value):
            detail = f"The manifest sent is not {run.run_id}/{MANIFEST} on the volume; send that file, or the run's id"
            raise Problem("manifest-mismatch", detail)
        return run, ExplainRequest()

    def _of_request(self, value: Mapping[str, Any]) -> tuple[Run, ExplainRequest]:
        try:
            job = JobRequest.model_validate(value)
        except ValidationError as error:
            raise Problem("invalid", "; ".join(explain(item) for item in error.errors()[:5])) from error
        try:
            name = job.run_id if job.manifest is None else run_named(job.manifest, self.runs.volume.root.name)
        except OutOfSight as error:
            raise Problem("files-not-visible", error.what) from error
        return self.runs.get(name or ""), job.explain_request()

    def _work(self, run: Run, request: ExplainRequest) -> int:
        """Proteins x terms x residues, at most; where the best proteins are taken, the longest could be they."""
        settings = self.settings
        proteins = tuple(dict.fromkeys(request.proteins))[: request.limit]
        count = len(proteins) or request.limit or DEFAULT_PROTEINS
        terms = len(set(request.terms)) or request.top_k or DEFAULT_TERMS
        if count > settings.max_proteins or terms > settings.max_terms:
            detail = f"{count} proteins and {terms} terms; a job has at most {settings.max_proteins} and {settings.max_terms}"
            raise Problem("too-much-work", detail)
        lengths = self.runs.lengths(run)
        if proteins:
            unknown = [protein for protein in proteins if not any(protein in part for part in lengths.values())]
            if unknown:
                raise Problem("invalid", f"proteins: the run {run.run_id} does not have {', '.join(unknown[:NAMED])}")
            residues = sum(max(part.get(protein, 0) for part in lengths.values()) for protein in proteins)
        else:
            residues = sum(sorted(lengths["test"].values(), reverse=True)[:count])
        if (work := residues * terms) > settings.max_work:
            detail = (
                f"{count} proteins of {residues} residues x {terms} terms; at most {settings.max_work} a job. Split it"
            )
            raise Problem("too-much-work", detail, work=work, max_work=settings.max_work)
        return work


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Problem("invalid", "The body must be a JSON object: a job request, or a manifest")
    return value
