"""Streaming the wanted annotations out of a GAF file beside goatools, which keeps every line.

    python -m benchmarks.rows.gaf FOLDER

is what a run prints of itself: peak MB of reading the folder's file, for the memory gate.
"""

from __future__ import annotations

import datetime
import gzip
import resource
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks import synthetic
from benchmarks.gates import Gate
from benchmarks.peers.client import Peer, PeerMissing
from benchmarks.peers.contest import Result, Way, interleave, timed
from benchmarks.rows.base import Comparison
from benchmarks.rows.base import compare as line
from services.train.goa.annotations import CHANNELS, NOT, RowRules, collect
from services.train.goa.gaf import GafHeader, read_gaf
from services.train.goa.graph import TermTable
from shared.ontology import Ontology

ROWS, MANY, PROTEINS, WANTED, TERMS, LEAST = 200_000, 800_000, 50_000, 0.1, 6000, 10.0
GROWTH_MB = 16.0  # allowed between ROWS and MANY lines of the same proteins
DROPPED, LAST_DAY = ("IDA", "TAS"), datetime.date(2025, 6, 30)
CODES = ("IEA", "IBA", "ISS", "IDA", "TAS", "ND")
LETTERS = {"molecular_function": "F", "biological_process": "P", "cellular_component": "C"}
OURS, THEIRS = "gowhy", "goatools"


def compare(rounds: int) -> list[Comparison]:
    """Protein and term of every kept annotation."""
    with ExitStack() as stack:
        folder, larger = (Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gowhy-bench-"))) for _ in "ab")
        write_files(folder, ROWS)
        write_files(larger, MANY)
        task = {"folder": str(folder), "dropped": DROPPED, "last_day": LAST_DAY.isoformat()}
        ways: dict[str, Way] = {}
        skipped = {}
        try:
            peer = stack.enter_context(Peer("goatools_gaf.py", task))
            ways[THEIRS] = lambda: (peer.run(), np.load(folder / "result.npy"))
        except PeerMissing as error:
            skipped[THEIRS] = str(error)
        ways[OURS] = timed(lambda: ours(folder))
        found = interleave(ways, rounds, skipped)
        growth = peak_mb(larger) - peak_mb(folder)
    same = THEIRS in found.results and np.array_equal(found.results[OURS], found.results[THEIRS])
    return [
        line(
            found,
            OURS,
            THEIRS,
            name="GAF streaming",
            sizes=f"{ROWS} lines, {WANTED:.0%} of {PROTEINS} proteins",
            least=LEAST,
            difference=0.0 if same else np.inf,
            tolerance=0.0,
            also=(Gate("memory", growth <= GROWTH_MB, f"{growth:+.0f} MB from {ROWS} to {MANY} lines"),),
        )
    ]


def write_files(folder: Path, rows: int) -> None:
    """`go.obo`, `wanted.txt` and `goa.gaf.gz`; what is kept of the wanted proteins is the same for any `rows`.

    The lines of wanted proteins are repeated, not multiplied: memory may grow with different annotations.
    """
    rng = np.random.default_rng(4)
    dag = synthetic.make_dag(TERMS)
    synthetic.write_obo(folder / "go.obo", dag)
    ids = synthetic.protein_ids(PROTEINS)
    (folder / "wanted.txt").write_text("\n".join(ids[: int(PROTEINS * WANTED)]))
    protein, term, code, day = (rng.integers(0, size, ROWS) for size in (PROTEINS, len(dag.ids), len(CODES), 28))
    year, negated = rng.integers(2024, 2027, ROWS), rng.random(ROWS) < 0.01
    lines = [
        f"UniProtKB\t{ids[p]}\tSYN{p}\t{'NOT|' if no else ''}involved_in\t{dag.ids[t]}\tGO_REF:1\t{CODES[c]}\tGO:1\t"
        f"{LETTERS[dag.namespaces[t]]}\tProtein\t\tprotein\ttaxon:9606\t{y}01{d + 1:02d}\tUniProt\t\t\n"
        for p, t, c, d, y, no in zip(protein, term, code, day, year, negated, strict=True)
    ]
    with gzip.open(folder / "goa.gaf.gz", "wt", compresslevel=1) as file:
        file.write("!gaf-version: 2.2\n")
        for _ in range(rows // ROWS):
            file.writelines(lines)


def ours(folder: Path) -> Result:
    """As stage 4 reads; [kept, 2]: number of the protein in `wanted.txt`, and of the term in alphabetical order."""
    terms = TermTable(Ontology.parse(folder / "go.obo"))
    wanted = {name.encode(): number for number, name in enumerate((folder / "wanted.txt").read_text().split())}
    rules = RowRules(frozenset(DROPPED), LAST_DAY)
    keys = collect(read_gaf(folder / "goa.gaf.gz", wanted, GafHeader()), terms, rules, "goa.gaf.gz").keys
    protein, rest = np.divmod(keys, len(CHANNELS) * len(terms))
    channel, term = np.divmod(rest, len(terms))
    pairs: Result = np.unique((protein * len(terms) + term)[channel != NOT])
    return pairs


def peak_mb(folder: Path) -> float:
    """Of reading in a process of its own."""
    done = subprocess.run([sys.executable, "-m", __name__, str(folder)], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    ours(Path(sys.argv[1]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
