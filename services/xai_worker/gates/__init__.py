"""What an explanation says of its own quality: named gates, each with its numbers; never one score of trust.

To add a gate: a file here, its model in `services/xai_worker/result.py`, a line in `Gatekeeper`.
"""

from __future__ import annotations

from services.xai_worker.gates.gatekeeper import Gatekeeper

__all__ = ["Gatekeeper"]
