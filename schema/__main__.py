"""`python -m schema` writes every JSON Schema from its pydantic model; a test fails when they drift."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.xai_worker.result import Explanation
from shared.config import Config
from shared.manifest import Manifest
from shared.manifest.artifact import ArtifactManifest
from shared.stores.manifest import StoreManifest

FOLDER = Path(__file__).resolve().parent

SCHEMAS: dict[str, Any] = {
    "config.schema.json": Config,
    "manifest.v1.json": Manifest,
    "artifact_manifest.v1.json": ArtifactManifest,
    "explanation.v1.json": Explanation,
    "store_manifest.v1.json": StoreManifest,
}

OPENAPI = "openapi.v1.json"


def document(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one entry, or the worker's OpenAPI document."""
    if name == OPENAPI:
        from services.xai_worker.app import openapi_document  # noqa: PLC0415 - the others need no web framework

        return openapi_document()
    schema = TypeAdapter(SCHEMAS[name]).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": name, **schema}


def render(name: str) -> str:
    """The file's text: sorted, indented, ended by a newline."""
    return json.dumps(document(name), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    for schema_name in (*SCHEMAS, OPENAPI):
        (FOLDER / schema_name).write_text(render(schema_name), encoding="utf-8")
