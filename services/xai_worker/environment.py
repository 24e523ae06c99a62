"""Settings that come from GOWHY_XAI_* variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import ConfigError

PREFIX = "GOWHY_XAI_"


class EnvironmentSettings(BaseModel):
    """A part of the settings; each field is GOWHY_XAI_<FIELD>."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ, **given: object) -> Self:
        """Arguments win over GOWHY_XAI_* variables, and those over the defaults.

        Raises:
            ConfigError: a value is not possible; the message names the variable.
        """
        found: dict[str, object] = {
            name: environment[PREFIX + name.upper()]
            for name in cls.model_fields
            if environment.get(PREFIX + name.upper())
        }
        found |= {name: value for name, value in given.items() if value is not None}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            problems = "; ".join(f"{PREFIX}{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors())
            raise ConfigError(problems, where="the environment", remedy="docs/worker.md lists the settings") from error
