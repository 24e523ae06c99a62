"""`bench`: load what is measured on, run the sections, write the results, say PASS or FAIL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.xai_worker.bench import SECTIONS, Material, Release, Section
from services.xai_worker.bench.report import verdict, write
from services.xai_worker.localisation import read_sites
from shared.errors import MissingInput
from shared.nn.runtime import torch_threads

PERMUTED = "p"  # the name of a run with permuted labels is the true run's with this letter after it


def run(
    manifest: Path, out: Path, *, planted: Path | None, residues: Path | None, only: Sequence[str], limit: int | None
) -> tuple[bool, str]:
    """Run the benchmark.

    Args:
        manifest: of the release.
        out: results go to `out/<first 12 hex of the model's hash>/`.
        planted: folder with `runs/<name>/manifest.json` and `data/<name>/truth_sites.tsv`.
        residues: folder with binding residues.
        only: sections; empty takes all.
        limit: a quick look: at most so many items per cell.

    Returns:
        whether every measured gate passed, and the last line.

    Raises:
        MissingInput: a run or a table is not there.
    """
    with torch_threads(1):
        material = gathered(manifest, planted, residues, limit)
        sections: dict[str, Section] = {}
        for name in only or SECTIONS:
            sections[name] = SECTIONS[name](material)
            # After every section, so that a killed benchmark leaves what it has.
            write(out / material.release.sha256[:12], material.release.sha256, sections)
    return verdict([check for section in sections.values() for check in section.checks])


def gathered(manifest: Path, planted: Path | None, residues: Path | None, limit: int | None) -> Material:
    """Load the release and the planted runs."""
    runs: dict[str, Release] = {}
    for path in sorted(planted.glob("runs/seed-*/manifest.json")) if planted else []:
        sites = path.parents[2] / "data" / path.parent.name / "truth_sites.tsv"
        if not sites.is_file():
            raise MissingInput(f"no {sites.name} of {path.parent.name}", where=str(sites.parent))
        runs[path.parent.name] = Release.load(path, read_sites(sites))
    return Material(
        Release.load(manifest),
        [release for name, release in runs.items() if not name.endswith(PERMUTED)],
        {name.removesuffix(PERMUTED): release for name, release in runs.items() if name.endswith(PERMUTED)},
        residues if residues is not None and residues.is_dir() else None,
        limit,
    )
