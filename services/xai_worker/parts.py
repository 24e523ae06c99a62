"""The finished proteins of a job that is not finished: a killed batch goes on from them.

They lie beside the result folder, a file per protein, and are removed when the result is published. A file counts only
for the same job and the same code, weights, software and inputs (its key), and while its bytes are what was written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from services.xai_worker.exports import MutationTable
from services.xai_worker.folder import PARTS
from services.xai_worker.naming import safe_name
from services.xai_worker.provenance import Provenance
from services.xai_worker.result import EXPLANATION, AnyExplanation
from shared.atomic import write_bytes
from shared.digests import canonical_json, digest_of, sha256_bytes
from shared.errors import from_os_error


@dataclass(frozen=True, slots=True)
class Made:
    """Everything that was found out about one protein."""

    explanations: Sequence[AnyExplanation]
    mutations: Sequence[MutationTable] = ()


class Parts:
    """A folder of finished proteins.

    Args:
        final: the result folder; parts are in `.NAME.parts` beside it.
        provenance: of the job; with the code's digest it is the key.
        code: digest of the code that makes explanations.
    """

    def __init__(self, final: Path, provenance: Provenance, code: str) -> None:
        self.folder = final.with_name(f".{final.name}{PARTS}")
        self.key = digest_of("part", provenance.model_dump(mode="json", exclude={"notes"}), code)

    def path(self, protein: str) -> Path:
        """Where a protein's part is."""
        return self.folder / f"{safe_name(protein)}.json"

    def put(self, protein: str, made: Made) -> None:
        """Keep a finished protein, atomically."""
        body = canonical_json(
            {
                "protein": protein,
                "explanations": [item.model_dump(mode="json") for item in made.explanations],
                "mutations": [
                    {"term": t.term, "model": t.model, "method": t.method, "rows": [list(row) for row in t.rows]}
                    for t in made.mutations
                ],
            }
        )
        head = canonical_json({"key": self.key, "sha256": sha256_bytes(body)})
        write_bytes(self.path(protein), head + b"\n" + body + b"\n")

    def get(self, protein: str) -> Made | None:
        """A finished protein; None where it is not finished, damaged, or of another job."""
        try:
            head, _, body = self.path(protein).read_bytes().partition(b"\n")
            record, body = json.loads(head), body.removesuffix(b"\n")
            if record != {"key": self.key, "sha256": sha256_bytes(body)}:
                return None
            document = json.loads(body)
            return Made(
                [EXPLANATION.validate_python(item) for item in document["explanations"]],
                [
                    MutationTable(
                        protein,
                        t["term"],
                        t["model"],
                        t["method"],
                        [(int(p), a, b, float(v)) for p, a, b, v in t["rows"]],
                    )
                    for t in document["mutations"]
                ],
            )
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None

    def has(self, protein: str) -> bool:
        """Is the protein finished? Reads the whole part: a torn file is not finished."""
        return self.get(protein) is not None

    def clear(self) -> None:
        """Remove the folder; the result is published."""
        try:
            shutil.rmtree(self.folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise from_os_error(error, str(self.folder)) from error
