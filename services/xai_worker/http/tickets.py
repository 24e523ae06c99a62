"""Links that open one job's report for a while: a browser cannot send a bearer token when a link is followed."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass

VALID_S = 3600


@dataclass(frozen=True, slots=True)
class Tickets:
    """`<job>.<end>.<hmac>`; whoever has one can read that job's result folder until its end, and nothing else."""

    key: bytes

    def make(self, job_id: str, now: float | None = None) -> tuple[str, float]:
        """A ticket and when it ends."""
        end = int((time.time() if now is None else now) + VALID_S)
        return f"{job_id}.{end}.{self._sign(job_id, str(end))}", float(end)

    def job_of(self, ticket: str, now: float | None = None) -> str | None:
        """The job that a ticket opens now; None for a forged or ended one."""
        job_id, _, rest = ticket.partition(".")
        end, _, signature = rest.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(job_id, end).encode()) or not end.isdecimal():
            return None
        return job_id if int(end) > (time.time() if now is None else now) else None

    def _sign(self, job_id: str, end: str) -> str:
        return hmac.new(self.key, f"{job_id}.{end}".encode(), hashlib.sha256).hexdigest()
