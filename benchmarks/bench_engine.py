"""The embedding engine, the neighbour vote and integrated gradients beside their peers, as ratios with gates.

`python -m benchmarks.bench_engine` prints a table per row and ends with `PASS n/m` or `FAIL n/m: names`; the numbers
are also in out/bench/engine.json. Peers with an environment of their own (OpenVINO, faiss) are asked through
the interpreter that GOWHY_PEERS_PYTHON names; without it their gates are skipped, and it says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before any numerical library is loaded: one thread, see benchmarks/peers/contest.py.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"

from benchmarks.gates import Gate, report  # noqa: E402
from benchmarks.peers.contest import Contest, cosine_distance  # noqa: E402
from benchmarks.rows import embedding, ig, knn, t5  # noqa: E402
from shared.atomic import write_json  # noqa: E402
from shared.nn.encoders import ENCODERS  # noqa: E402
from shared.nn.native.kernels import kernels  # noqa: E402

HALF_ERROR, SINGLE_ERROR = 2e-5, 1e-6
PEAK_SHARE = {"8M": 0.62, "35M": 0.62}
# (bf16 by extract.py, by Hugging Face bf16, by OpenVINO bf16)
EMBEDDING_FLOORS = {"8M": (7.0, 1.9, 1.15), "35M": (5.5, 1.9, 1.15)}
SINGLE_FLOOR = 3.0
SINGLE_SHARE = 0.85  # of the float32 peak, where the peer leaves no room for the ratio
Row = dict[str, Any]


def ratio_gate(contest: Contest, name: str, ours: str, peer: str, floor: float) -> list[Gate]:
    """A floor under the peer's time by ours; none where the peer was skipped."""
    if peer in contest.skipped:
        print(f"skip {name}: {contest.skipped[peer]}")
        return []
    ratio = contest.ratio(ours, peer)
    return [Gate(name, ratio >= floor, f"{ratio:.2f}x of {peer}, at least {floor}x")]


def error_gate(contest: Contest, name: str, way: str, reference: str, limit: float) -> Gate:
    """A limit on the largest 1 - cosine."""
    error = cosine_distance(contest.results[way], contest.results[reference])
    return Gate(name, error <= limit, f"1-cos {error:.1e} from {reference}, at most {limit:.0e}")


def peak_share(contest: Contest, ours: str, peak: str, flops: float, peak_flops: float) -> float:
    """Median over rounds of the useful operations per second by those of the matrix product beside it."""
    pairs = zip(contest.seconds[ours], contest.seconds[peak], strict=True)
    return statistics.median((flops / mine) / (peak_flops / product) for mine, product in pairs)


def table(title: str, contest: Contest, ours: str, extra: Callable[[str], str]) -> list[Row]:
    """Print one line per way; the same as rows."""
    print(f"\n{title}")
    rows = []
    for name, seconds in contest.seconds.items():
        row = {
            "way": name,
            "seconds": seconds,
            "times_ours": contest.ratio(ours, name),
            "spread": contest.spread(name),
            "what": extra(name),
        }
        rows.append(row)
        print(
            f"  {name:<44} {min(seconds):9.4f} s  {row['times_ours']:6.2f} x {ours}  spread {row['spread']:.2f}  {row['what']}"
        )
    for name, reason in contest.skipped.items():
        print(f"  {name:<44} skipped: {reason}")
    return rows


def embedding_row(size: str, count: int, rounds: int) -> tuple[list[Row], list[Gate]]:
    """ESM-2 mean embedding."""
    e = embedding
    contest = e.measure(size, count, rounds)
    sequences = e.proteins(count)
    residues = sum(map(len, sequences))
    shape = ENCODERS[e.SIZES[size]].shape
    flops = e.useful_flops(sequences, shape)  # type: ignore[arg-type]

    def extra(name: str) -> str:
        if name in {e.PEAK, e.SINGLE_PEAK}:
            return f"{float(contest.results[name]) / 1e9:.0f} GFLOP/s"
        error = cosine_distance(contest.results[name], contest.results[e.REFERENCE])
        return f"{residues / min(contest.seconds[name]):.0f} residues/s, 1-cos {error:.1e}"

    rows = table(f"ESM-2 {size}, {count} proteins, {residues} residues", contest, e.HALF, extra)
    extract, hugging, openvino = EMBEDDING_FLOORS[size]
    product = 8.0 * 4096 * shape.dim**2
    share = peak_share(contest, e.HALF, e.PEAK, flops, product)
    single = peak_share(contest, e.SINGLE, e.SINGLE_PEAK, flops, product)
    gates = [
        *ratio_gate(contest, f"{size} bf16 by extract.py", e.HALF, e.EXTRACT, extract),
        *ratio_gate(contest, f"{size} bf16 by Hugging Face", e.HALF, e.HF_HALF, hugging),
        *ratio_gate(contest, f"{size} bf16 by OpenVINO", e.HALF, e.OPENVINO, openvino),
        error_gate(contest, f"{size} bf16 error", e.HALF, e.REFERENCE, HALF_ERROR),
        error_gate(contest, f"{size} float32 error", e.SINGLE, e.REFERENCE, SINGLE_ERROR),
        Gate(f"{size} share of the bf16 peak", share >= PEAK_SHARE[size], f"{share:.2f}, at least {PEAK_SHARE[size]}"),
    ]
    by_extract = contest.ratio(e.SINGLE, e.EXTRACT)
    gates.append(
        Gate(
            f"{size} float32 by extract.py",
            by_extract >= SINGLE_FLOOR or single >= SINGLE_SHARE,
            f"{by_extract:.2f}x, at least {SINGLE_FLOOR}x; or {single:.2f} of the float32 peak, at least {SINGLE_SHARE}",
        )
    )
    return rows, gates


def t5_row(count: int, rounds: int) -> tuple[list[Row], list[Gate]]:
    """The ProtT5-shaped encoder."""
    contest = t5.measure(count, rounds)
    sequences = embedding.proteins(count)
    residues = sum(map(len, sequences))

    def extra(name: str) -> str:
        if name == t5.PEAK:
            return f"{float(contest.results[name]) / 1e9:.0f} GFLOP/s"
        error = cosine_distance(contest.results[name], contest.results[t5.ONE])
        return f"{residues / min(contest.seconds[name]):.0f} residues/s, 1-cos {error:.1e}"

    rows = table(f"ProtT5-shaped encoder, {count} proteins, {residues} residues", contest, t5.HALF, extra)
    share = peak_share(
        contest, t5.HALF, t5.PEAK, t5.useful_flops(sequences), 8192.0 * t5.SHAPE.dim * t5.SHAPE.feed_forward
    )
    print(f"  share of the bf16 peak: {share:.2f}")
    return rows, [
        *ratio_gate(contest, "T5 bf16 by Hugging Face one by one", t5.HALF, t5.ONE, 2.5),
        error_gate(contest, "T5 bf16 error", t5.HALF, t5.ONE, HALF_ERROR),
        error_gate(contest, "T5 float32 error", t5.SINGLE, t5.ONE, SINGLE_ERROR),
    ]


def knn_row(rounds: int) -> tuple[list[Row], list[Gate]]:
    """Neighbours and the vote."""
    contest = knn.measure(rounds)
    wanted = contest.results[knn.BRUTE]
    found = {
        name: knn.recall(contest.results[name], wanted)
        for name in contest.seconds
        if name not in {knn.VOTE, knn.VOTE_BRUTE}
    }
    rows = table(
        f"{knn.QUERIES} queries x {knn.REFERENCE} x {knn.DIM}, k {knn.COUNT}",
        contest,
        knn.OURS,
        lambda name: f"recall {found[name]:.5f}" if name in found else "",
    )
    theirs = contest.results[knn.VOTE_BRUTE]
    voted = theirs > -10  # terms that some neighbour has; the others get the prior here and nothing there
    apart = float(abs(contest.results[knn.VOTE][voted] - theirs[voted]).max())
    return rows, [
        *ratio_gate(contest, "KNN by scikit-learn", knn.OURS, knn.BRUTE, 3.0),
        *ratio_gate(contest, "KNN by faiss", knn.OURS, knn.FAISS, 1.2),
        *ratio_gate(contest, "KNN with the vote", knn.VOTE, knn.VOTE_BRUTE, 3.0),
        Gate("KNN recall", found[knn.OURS] == 1, f"{found[knn.OURS]:.5f}, exactly 1"),
        Gate("KNN vote", apart <= 1e-2, f"{apart:.1e} logits apart, at most 1e-2"),
    ]


def ig_row(rounds: int) -> tuple[list[Row], list[Gate]]:
    """Integrated gradients of five terms."""
    contest, task = ig.measure(rounds)
    naive = contest.results[ig.NAIVE]
    rows = table(
        f"integrated gradients, five terms, 8M; gowhy took {max(task.steps)} nodes, captum 50",
        contest,
        ig.OURS,
        lambda name: f"rank correlation {ig.rank_correlation(contest.results[name], naive):.6f}",
    )
    rank = ig.rank_correlation(contest.results[ig.OURS], naive)
    return rows, [
        *ratio_gate(contest, "IG by captum per term", ig.OURS, ig.NAIVE, 8.0),
        *ratio_gate(contest, "IG by captum at its best", ig.OURS, ig.tuned(contest), 2.5),
        Gate("IG rank correlation", rank >= 0.999, f"{rank:.6f}, at least 0.999"),
        Gate("IG completeness", task.errors[-1] <= 0.01, f"{task.errors[-1]:.1e}, at most 0.01"),
    ]


def main() -> int:
    """Measure the chosen rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_engine", description=__doc__)
    parser.add_argument("--rows", default="8M,35M,t5,knn,ig", help="comma-separated; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/bench/engine.json"))
    arguments = parser.parse_args()
    rounds = arguments.rounds
    work: dict[str, Callable[[], tuple[list[Row], list[Gate]]]] = {
        "8M": lambda: embedding_row("8M", 24, rounds),
        "35M": lambda: embedding_row("35M", 16, rounds),
        "t5": lambda: t5_row(10, rounds),
        "knn": lambda: knn_row(rounds),
        "ig": lambda: ig_row(rounds),
    }
    found, reason = kernels()
    print(f"compiled kernels: {found.name if found else reason}")
    gates: list[Gate] = []
    rows: dict[str, list[Row]] = {}
    for name in arguments.rows.split(","):
        rows[name], held = work[name]()
        gates += held
    write_json(arguments.out, {"rows": rows, "gates": [[gate.name, gate.holds, gate.found] for gate in gates]})
    print(f"\n{json.dumps(str(arguments.out))}")
    return report(gates)


if __name__ == "__main__":
    raise SystemExit(main())
