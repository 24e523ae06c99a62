"""Teams of one process that note or invent what would be said to the others."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.train.team import Team


@dataclass(frozen=True)
class Caller(Team):
    """A leader that notes its calls; it computes everything itself."""

    calls: list[tuple[str, str]] = field(default_factory=list)

    def call(self, stage: str, job: str) -> None:
        self.calls.append((stage, job))


@dataclass(frozen=True)
class Follower(Team):
    """Hears these calls, and then that there are no more."""

    calls: list[tuple[str, str]] = field(default_factory=list)

    def heard(self) -> tuple[str, str] | None:
        return self.calls.pop(0) if self.calls else None
