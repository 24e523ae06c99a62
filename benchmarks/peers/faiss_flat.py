"""faiss IndexFlatIP: exact inner products in float32."""

import json
import sys
import time

import faiss
import numpy as np


def main() -> None:
    """Serve one task; see client.py."""
    task = json.loads(sys.stdin.readline())
    faiss.omp_set_num_threads(1)
    queries, reference = (np.load(task[name]) for name in ("queries", "reference"))
    index = faiss.IndexFlatIP(reference.shape[1])
    index.add(reference)
    print("answer ready", flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        found = index.search(queries, task["count"])[1]
        seconds = time.process_time() - started
        np.save(task["result"], found)
        print(f"answer {seconds}", flush=True)


main()
