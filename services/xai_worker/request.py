"""What a person or a client asks to be explained."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from services.xai_worker.methods import METHODS, TierName
from shared.digests import digest_of
from shared.errors import UsageError

REQUEST_VERSION = 3  # part of every job id: bump it when the same request would give another result

DEFAULT_PROTEINS = 5
DEFAULT_TERMS = 3

# No control characters: a name goes into logs, databases and file names.
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]


class ExplainRequest(BaseModel):
    """Which proteins and terms, by which methods. Empty lists take the default named at the field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    proteins: tuple[Name, ...] = Field((), max_length=10_000, description="empty: the best-scored test proteins")
    terms: tuple[Name, ...] = Field((), max_length=1_500, description="empty: each protein's best specific terms")
    top_k: int | None = Field(
        None, ge=1, le=1_500, description="best terms of each protein, where none is named; null: 3"
    )
    pairs: tuple[tuple[Name, Name], ...] = Field(
        (), max_length=100_000, description="(protein, term): terms of one protein only, beside those of all"
    )
    tier: TierName = Field("default", description="how much is computed: fast, default or full")
    methods: tuple[Name, ...] = Field((), max_length=50, description="empty: those of the tier")
    models: tuple[Name, ...] = Field(
        (), max_length=50, description="such as cnn, mlp/esm2, stacker; empty: all that can be explained"
    )
    windows: tuple[int, ...] = Field(
        (1,), min_length=1, max_length=10, description="residues that occlusion hides at once; odd"
    )
    limit: int | None = Field(None, ge=1, description="at most so many proteins; null: 5 where none is named")
    tolerance: float = Field(0.01, gt=0, le=1, description="accepted completeness error")
    threshold: float = Field(0.5, gt=0, lt=1, description="probability that a counterfactual has to fall below")
    scan_positions: int = Field(10, ge=0, description="positions of the exact mutation scan; 0: all")
    max_steps: int = Field(256, ge=16, le=4096, description="quadrature nodes before a result is flagged")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="of methods that draw at random; the others ignore it")

    @model_validator(mode="after")
    def _known(self) -> Self:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise ValueError(f"no method {unknown[0]!r}; methods: {', '.join(METHODS)}")
        if any(window < 1 or window % 2 == 0 for window in self.windows):
            raise ValueError(f"windows {list(self.windows)} are not all odd and positive")
        return self

    def job_id(self, model_sha256: str, sites_sha256: str | None, *extra: object) -> str:
        """The job id of an in-process explain: equal requests of one model share it.

        The order in which things are named does not count. `extra` is what else decides the result's bytes.
        """
        asked = {name: sorted(set(value)) if isinstance(value, tuple) else value for name, value in self}
        return f"local-{digest_of('explain', REQUEST_VERSION, asked, model_sha256, sites_sha256, *extra)[:16]}"


def request_of(**values: object) -> ExplainRequest:
    """Build a request from command-line values.

    Raises:
        UsageError: a value is not possible.
    """
    try:
        return ExplainRequest.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}".lstrip(": ") for item in error.errors()
        )
        raise UsageError(problems, remedy="See python -m services.xai_worker explain --help") from error
