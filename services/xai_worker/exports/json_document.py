"""JSON: the protein's explanations as they stand in explanations.jsonl; the schema is schema/explanation.v1.json."""

from __future__ import annotations

from collections.abc import Iterator

from services.xai_worker.exports.base import Explained
from shared.digests import canonical_json


class JsonDocument:
    """A list of explanation documents, each valid by the schema."""

    name, what = "json", "every explanation of the protein, by schema/explanation.v1.json"

    def files(self, protein: Explained) -> Iterator[tuple[str, bytes]]:
        """One file."""
        documents = [item.model_dump(mode="json") for item in protein.explanations]
        yield f"{protein.name}.json", canonical_json(documents) + b"\n"
