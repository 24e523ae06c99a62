"""One evaluation from files in a process of its own: `python -m benchmarks.peers.evaluation_run gowhy|cafaeval FOLDER MODE`.

Prints one JSON line: processor seconds of reading and scoring (imports and compiled kernels are ready before), peak
MB of the process, and per namespace the best F, weighted F and least S.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

NAMESPACES = {"MF": "molecular_function", "BP": "biological_process", "CC": "cellular_component"}


def main(way: str, folder: Path, mode: str) -> None:
    """Warm up on the folder `tiny` beside the files, then measure."""
    score = {"gowhy": gowhy, "cafaeval": cafaeval}[way]
    score(folder / "tiny", mode)
    started = time.process_time()
    found = score(folder, mode)
    seconds = time.process_time() - started
    # Not ru_maxrss, which remembers the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "found": found}))


def gowhy(folder: Path, mode: str) -> dict[str, Any]:
    """`services.train evaluate`, without its command line."""
    from services.train.evaluation import evaluate_files  # noqa: PLC0415

    paths = (folder / "pred/p.tsv", folder / "truth.tsv", folder / "go.obo", folder / "ia.tsv")
    found = evaluate_files(*paths, propagation=mode)  # type: ignore[arg-type]
    keys = {"f": "fmax", "f_w": "fmax_w", "s_w": "smin"}
    return {
        namespace: {short: found[f"{key}/{aspect}"] for short, key in keys.items()}
        for aspect, namespace in NAMESPACES.items()
        if found[f"fmax/{aspect}"] is not None
    }


def cafaeval(folder: Path, mode: str) -> dict[str, Any]:
    """Its documented call."""
    from cafaeval.evaluation import cafa_eval  # noqa: PLC0415

    logging.disable()
    warnings.simplefilter("ignore")
    files = (str(folder / "go.obo"), str(folder / "pred"), str(folder / "truth.tsv"))
    table, _ = cafa_eval(*files, ia=str(folder / "ia.tsv"), no_orphans=True, prop=mode, th_step=0.01, n_cpu=1)
    return {
        str(namespace): {"f": float(of["f"].max()), "f_w": float(of["f_w"].max()), "s_w": float(of["s_w"].min())}
        for namespace, of in table.groupby(level="ns")
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
