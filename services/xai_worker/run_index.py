"""One page over every finished explanation of a run: `out/<run_id>/xai/index.html`, from the jobs beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from services.xai_worker.folder import read_complete
from services.xai_worker.naming import safe_name
from services.xai_worker.output import EXPLANATIONS, INDEX, REPORTS
from services.xai_worker.provenance import Provenance
from services.xai_worker.report import IndexRow, index_row, render_index
from services.xai_worker.result import AnyExplanation
from shared.atomic import write_bytes
from shared.errors import MissingInput

_ADAPTER: TypeAdapter[AnyExplanation] = TypeAdapter(AnyExplanation)


def write_run_index(xai: Path) -> tuple[Path, int, int]:
    """Write the page anew; a job that is not whole, or of another version of the format, is left out with a warning.

    Args:
        xai: the folder of a run's jobs.

    Returns:
        The page, jobs in it, explanations in it.

    Raises:
        MissingInput: no finished job is there.
    """
    jobs: dict[str, str] = {}
    rows: list[IndexRow] = []
    provenance: Provenance | None = None
    for name, folder, said in _finished(xai):
        try:
            found = list(_rows(folder, name))
            provenance = Provenance.model_validate(said)
        except (ValidationError, OSError) as error:
            print(f"warning: {name} is left out of the index: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        jobs[name] = f"{name}/{INDEX}"
        rows += found
    if provenance is None:
        raise MissingInput("no finished explanations", where=str(xai), remedy="Run make explain first")
    page = xai / INDEX
    write_bytes(page, render_index(rows, provenance, jobs=jobs).encode())
    return page, len(jobs), len(rows)


def _finished(xai: Path) -> Iterator[tuple[str, Path, object]]:
    """Name, folder and provenance of each whole result folder, by name."""
    for folder in sorted(xai.iterdir()) if xai.is_dir() else ():
        # Results are plain folders; a link might lead anywhere.
        if folder.is_dir() and not folder.is_symlink() and (result := read_complete(folder)) is not None:
            yield folder.name, folder, result.get("provenance")


def _rows(folder: Path, job: str) -> Iterator[IndexRow]:
    with (folder / EXPLANATIONS).open("rb") as lines:
        for line in lines:
            explanation = _ADAPTER.validate_json(line)
            yield index_row(explanation, f"{job}/{REPORTS}/{safe_name(explanation.protein)}.html", job)
