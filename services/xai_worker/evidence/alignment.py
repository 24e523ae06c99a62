"""Local alignments of one protein with a few others, by MMseqs2."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from services.xai_worker.result import Alignment
from shared.mmseqs import Mmseqs

FIELDS = "target,fident,qstart,qend,tstart,tend,qaln,taln,evalue"
# All pairs are aligned: there are only a few. An E-value of one search, as among hits by chance at most.
OPTIONS = ("-a", "1", "--prefilter-mode", "1", "--alignment-mode", "3", "-e", "0.001", "--remove-tmp-files", "1")


def align(query: str, targets: Sequence[str]) -> list[Alignment | None]:
    """The best local alignment of `query` with each target; None where none has an E-value up to 0.001.

    Raises:
        MissingInput: there is no MMseqs2 binary.
    """
    found: list[Alignment | None] = [None] * len(targets)
    if not targets:
        return found
    with TemporaryDirectory(prefix="gowhy-align-") as name:
        folder = Path(name)
        run = Mmseqs(1, None)
        one, others = run.create_database(folder / "one", [query]), run.create_database(folder / "others", targets)
        hits, table = str(folder / "hits"), folder / "hits.tsv"
        kept = str(max(300, len(targets)))
        run("search", str(one), str(others), hits, str(folder / "tmp"), *OPTIONS, "--max-seqs", kept)
        run("convertalis", str(one), str(others), hits, str(table), "--format-output", FIELDS)
        with table.open(encoding="ascii", newline="") as file:
            for target, fident, qstart, qend, tstart, tend, qaln, taln, evalue in csv.reader(file, delimiter="\t"):
                if found[int(target)] is None:  # the best comes first
                    found[int(target)] = Alignment(
                        identity=float(fident),
                        query_start=int(qstart),
                        query_end=int(qend),
                        neighbour_start=int(tstart),
                        neighbour_end=int(tend),
                        query=qaln,
                        neighbour=taln,
                        evalue=float(evalue),
                    )
    return found


def aligned_positions(alignment: Alignment) -> dict[int, int]:
    """Neighbour position -> query position of aligned residues, 1-based; gaps have none."""
    found, query, neighbour = {}, alignment.query_start, alignment.neighbour_start
    for one, other in zip(alignment.query, alignment.neighbour, strict=True):
        if one != "-" and other != "-":
            found[neighbour] = query
        query += one != "-"
        neighbour += other != "-"
    return found
