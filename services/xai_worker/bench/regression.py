"""Explanations must not change silently: two results of the same model are compared byte by byte.

Published saliency maps stopped matching a paper's figures after released weights changed, and nothing in
the tool noticed (DeepFRI issue 35). A result of another model is therefore not compared at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from services.xai_worker.bench.base import Check, Material, Section
from services.xai_worker.folder import read_complete
from services.xai_worker.job import Job
from services.xai_worker.output import EXPLANATIONS
from services.xai_worker.request import ExplainRequest
from services.xai_worker.result import json_line
from shared.errors import IntegrityError, MissingInput, ParityError
from shared.logs import Logger

# What must not differ; pages may be drawn anew.
NUMBERS = (EXPLANATIONS, "attributions.parquet", "mutations.parquet")
SAME = ("model_sha256", "ontology_version", "seeds")


def compare(one: Path, other: Path) -> int:
    """Compare two result folders; returns how many explanations are equal.

    Raises:
        MissingInput: a folder holds no complete result.
        ParityError: they explain different models, or different requests: not comparable.
        IntegrityError: the same model and request gave other numbers; names the first.
    """
    first, second = _read(one), _read(other)
    for key in SAME:
        if first["provenance"][key] != second["provenance"][key]:
            raise ParityError(
                f"not comparable: {key} is {first['provenance'][key]} and {second['provenance'][key]}",
                where=f"{one}, {other}",
                remedy="Compare explanations of the same model; another model has other explanations",
            )
    if first["request"] != second["request"]:
        raise ParityError("not comparable: different requests", where=f"{one}, {other}", remedy="Repeat one of them")
    lines = [(folder / EXPLANATIONS).read_bytes().splitlines() for folder in (one, other)]
    for number, (a, b) in enumerate(zip(*lines, strict=False), start=1):
        if a != b:
            raise IntegrityError(
                f"explanation {number} differs: {_what(a)}", where=f"{one}, {other}", remedy="Find out what changed"
            )
    for name in NUMBERS:
        if first["files"].get(name) != second["files"].get(name):
            raise IntegrityError(f"{name} differs", where=f"{one}, {other}", remedy="Find out what changed")
    return len(lines[0])


def measure(material: Material) -> Section:
    """Explain one protein of the release twice, from scratch, and compare every byte."""
    lines = [_lines(material) for _ in range(2)]
    equal = lines[0] == lines[1]
    text = (
        f"{len(lines[0])} explanations of one protein, computed twice; `bench --compare A B` compares stored results."
    )
    return Section("Regression", text, [], [Check("same bytes twice", equal, f"{len(lines[0])} lines", "equal")])


def _lines(material: Material) -> list[bytes]:
    release = material.release
    with TemporaryDirectory(prefix="gowhy-bench-") as logs:
        job = Job(release.run, release.model, ExplainRequest(limit=1), Logger(Path(logs), quiet=True))
        job.choose(None)
        return [json_line(document) for target in job.targets for document in job.explain(target).documents]


def _read(folder: Path) -> dict[str, Any]:
    result = read_complete(folder)
    if result is None:
        raise MissingInput("no complete result", where=str(folder), remedy="Give a folder out/<run_id>/xai/<job_id>")
    return result


def _what(line: bytes) -> str:
    value = json.loads(line)
    return " ".join(str(value[name]) for name in ("protein", "term", "model", "method"))
