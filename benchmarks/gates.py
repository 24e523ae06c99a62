"""Gates of a benchmark: named conditions with what was found, and the last line that everything is read by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition; `found` says what was measured against what."""

    name: str
    holds: bool
    found: str


def report(gates: Sequence[Gate]) -> int:
    """Print one line per gate and `PASS n/m` or `FAIL n/m: names`; the exit code is 0 or 1."""
    for gate in gates:
        print(f"{'ok  ' if gate.holds else 'MISS'} {gate.name}: {gate.found}")
    missed = [gate.name for gate in gates if not gate.holds]
    held = f"{len(gates) - len(missed)}/{len(gates)}"
    print(f"FAIL {held}: {', '.join(missed)}" if missed else f"PASS {held}")
    return 1 if missed else 0
