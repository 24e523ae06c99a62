"""What is known in words about one protein, and the rule that takes out what states its label."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

RULE_VERSION = 1
DROPPED_KINDS = {
    "go": ("go",),
    "function": ("comment FUNCTION",),
    "keywords": ("keywords",),
    "location": ("comment SUBCELLULAR LOCATION",),
}

# Evidence tags name the experiment, and shared PubMed ids tie a protein to whoever its paper is about.
_EVIDENCE = re.compile(r"\s*(?:Evidence=)?\{ECO:[^}]*\}")
_PUBMED = re.compile(r"\(?PubMed:\d+(?:, *PubMed:\d+)*\)?")
_GO_ID = re.compile(r"\bGO[:_ ]\s?\d{7}\b", re.IGNORECASE)
# Everything a reader of lines or of tabs could take for a separator, and other control characters.
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class TextRecord:
    """One protein's text in labelled parts.

    `accessions` has the primary one first. `changed` is the date of its last change, None where the
    source has no dates. Kinds are names, organism, title, `comment <TOPIC>`, go, domains, keywords, text.
    """

    accessions: tuple[str, ...]
    changed: datetime.date | None
    parts: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "accessions": list(self.accessions),
            "changed": self.changed.isoformat() if self.changed else None,
            "parts": [list(part) for part in self.parts],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TextRecord:
        """The inverse of `to_json`; KeyError, TypeError or ValueError for anything else."""
        changed = value["changed"]
        return cls(
            tuple(str(name) for name in value["accessions"]),
            datetime.date.fromisoformat(changed) if changed is not None else None,
            tuple((str(kind), str(text)) for kind, text in value["parts"]),
        )


def compose(record: TextRecord, drop: Iterable[str]) -> str:
    """One line of text without what `drop` names, without evidence tags and PubMed ids.

    Args:
        record: the protein's parts.
        drop: keys of DROPPED_KINDS.

    Returns:
        Words separated by single blanks; empty where nothing is left.
    """
    rules = set(drop)
    kinds = {kind for rule in rules for kind in DROPPED_KINDS[rule]}
    text = " ".join(text for kind, text in record.parts if kind not in kinds)
    text = _PUBMED.sub(" ", _EVIDENCE.sub("", text))
    if "go" in rules:
        text = _GO_ID.sub(" ", text)
    return _BLANKS.sub(" ", text).strip()
