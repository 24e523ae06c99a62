"""What every config section shares: unknown keys are refused, values are frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

INPUT_FILE = "input_file"
NOT_IN_FINGERPRINT = "not_in_fingerprint"

# A file that the user names. Fingerprints hold its content's sha256, never its path.
InputFile = Annotated[Path, INPUT_FILE]


class Section(BaseModel):
    """A part of the config. A stage declares the sections it reads; only those enter its fingerprint."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @classmethod
    def input_files(cls) -> tuple[str, ...]:
        """Names of the fields that hold an `InputFile`."""
        return tuple(
            name
            for name, field in cls.model_fields.items()
            if INPUT_FILE in field.metadata or _mentions_input_file(field.annotation)
        )

    def fingerprint_values(self) -> dict[str, Any]:
        """The values that may change an output: all fields but file paths and those marked otherwise."""
        skipped = {
            *self.input_files(),
            *(name for name, field in type(self).model_fields.items() if NOT_IN_FINGERPRINT in field.metadata),
        }
        values: dict[str, Any] = self.model_dump(mode="json", exclude=skipped)
        for name in values:
            if isinstance(nested := getattr(self, name), Section):
                values[name] = nested.fingerprint_values()
        return values


def _mentions_input_file(annotation: Any) -> bool:
    return any(INPUT_FILE in getattr(part, "__metadata__", ()) for part in getattr(annotation, "__args__", ()))
