"""`manifest.json` of a run's models/, features/ or logs/: what the folder holds, for a person or a hub.

It carries times and may be rewritten (when a model is published), so nothing hashes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from shared.atomic import write_json
from shared.errors import IntegrityError, MissingInput
from shared.manifest.model import Part

ARTIFACT_MANIFEST = "manifest.json"


class ArtifactManifest(Part):
    """One folder of artefacts."""

    created_at: str = Field(description="when the newest stage that writes into the folder finished; ISO 8601, UTC")
    model_name: str = Field(description="the run id")
    base_model: str | None = Field(description="sequence encoders with their weights; null without any")
    training_config: dict[str, Any] = Field(description="config sections that decide the folder's content")
    metrics: dict[str, Any]
    size_mb: float = Field(ge=0, description="of the folder's other files, in 10^6 bytes")
    huggingface_url: str | None = Field(description="where it was published; null until then")


def read_artifact_manifest(folder: Path) -> ArtifactManifest:
    """Read a folder's manifest.

    Raises:
        MissingInput: there is none.
        IntegrityError: it does not follow the schema.
    """
    path = folder / ARTIFACT_MANIFEST
    try:
        return ArtifactManifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingInput(
            f"no {ARTIFACT_MANIFEST} in {folder}", remedy="Run the pipeline again; it is written"
        ) from error
    except ValidationError as error:
        raise IntegrityError(
            f"does not follow schema/artifact_manifest.v1.json: {error.errors()[0]['msg']}",
            where=str(path),
            remedy="Delete it and run the pipeline again; it is written anew",
        ) from error


def write_artifact_manifest(folder: Path, manifest: ArtifactManifest) -> None:
    """Write a folder's manifest atomically."""
    write_json(folder / ARTIFACT_MANIFEST, manifest.model_dump(mode="json"))
