"""What a push sends and how fast a pull is, on the Kaggle stand-in. Gates; exit 1 on a miss; last line PASS or FAIL.

Bytes are counted by the server: file content that reached it, without manifests. A pull of 1 GB is compared
with a plain download of the same objects: same server, same files, same parallelism, each file flushed to disk
(fsync), no hashing. The two alternate, and the best of each counts, because the machine does other things too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from kagglesdk import kaggle_env

from shared.checkpoint import Checkpoint, Output
from shared.digests import sha256_file
from shared.stores import ContentStore, open_store
from tests.fakes.kaggle_stub import KEY, USER

PULL_FACTOR = 1.3
FILES = 16
PARALLEL = 4


@contextlib.contextmanager
def server(home: Path) -> Iterator[str]:
    """The stand-in, in a process of its own, and the real client of this process pointed at it; its URL."""
    home.mkdir()
    os.environ.update(
        HOME=str(home),
        KAGGLE_CONFIG_DIR=str(home),
        TMPDIR=str(home),
        KAGGLE_USERNAME=USER,
        KAGGLE_KEY=KEY,
        KAGGLE_API_ENVIRONMENT="LOCALHOST",
    )
    command = [sys.executable, "-m", "tests.fakes.kaggle_stub", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        kaggle_env._env_to_endpoint[kaggle_env.KaggleEnv.LOCAL] = url
        try:
            yield url
        finally:
            process.terminate()


def counts(url: str) -> dict[str, Any]:
    """What the server has received."""
    result: dict[str, Any] = requests.get(f"{url}/stub/counts", timeout=60).json()
    return result


def make_stage(root: Path, stage: str, seed: str, paths: dict[str, int]) -> Checkpoint:
    """A stage's outputs with random content, and its checkpoint."""
    outputs = []
    for path, size in paths.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as writer:
            for _ in range(size // (1 << 20)):
                writer.write(os.urandom(1 << 20))
            writer.write(os.urandom(size % (1 << 20)))
        outputs.append(Output(path, sha256_file(file), size, None))
    return Checkpoint(stage, 1, seed * 64, {}, tuple(outputs), "", "")


def bytes_sent(url: str, action: Callable[[], object]) -> int:
    """File content that an action made the server receive."""
    before = counts(url)["content_bytes"]
    action()
    return int(counts(url)["content_bytes"] - before)


def address(transport: Any, location: Any) -> str:
    """Where an object is downloaded from, as the store itself asks."""
    found: str = transport._address(location.version, location.name)
    return found


def plain_download(store: ContentStore, checkpoint: Checkpoint, into: Path) -> None:
    """The same objects, without the store: a GET each, written and flushed."""
    manifest, transport = store.state().manifest, store.transport()
    session = requests.Session()

    def get(output: Output) -> None:
        location = manifest.objects[output.sha256]
        url = address(transport, location)
        target = into / output.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with session.get(url, stream=True) as answer, target.open("wb", buffering=0) as file:
            for block in answer.iter_content(1 << 20):
                file.write(block)
            os.fsync(file.fileno())

    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(get, checkpoint.outputs))


def measure_pull(folder: Path, store: ContentStore, checkpoint: Checkpoint, rounds: int) -> tuple[float, float]:
    """Median seconds of a pull, and of a plain download, taken in turns."""
    times: dict[str, list[float]] = {"pull": [], "plain": []}
    for number in range(rounds):
        for kind in ("plain", "pull") if number % 2 else ("pull", "plain"):
            into = folder / kind
            os.sync()  # what the one before left unwritten is not this one's to wait for
            begun, cpu = time.perf_counter(), time.process_time()
            if kind == "plain":
                plain_download(store, checkpoint, into)
            else:
                store.pull(checkpoint.stage, checkpoint.fingerprint, into)
            times[kind].append(time.perf_counter() - begun)
            print(f"  {kind}: {times[kind][-1]:.1f} s, {time.process_time() - cpu:.1f} s of CPU")
            shutil.rmtree(into)
    for kind, seconds in times.items():
        print(f"{kind}: {', '.join(f'{s:.1f}' for s in seconds)} s, median {statistics.median(seconds):.1f} s")
    return statistics.median(times["pull"]), statistics.median(times["plain"])


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=Path, help="a folder on the disk to measure; default: a temporary one")
    arguments = parser.parse_args()
    gates: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(dir=arguments.work) as name, server(Path(name) / "home") as url:
        folder = Path(name)
        store = open_store(f"kaggle://{USER}/bench", folder / "cache")
        run = folder / "run"
        big = {f"features/{n}.npy": arguments.megabytes * 1_000_000 // FILES for n in range(FILES)}
        embeddings = make_stage(run, "stage_05_embeddings_t5", "a", big)
        small = make_stage(run, "stage_07_level1_preds", "b", {"features/x.npy": 3_000_000, "metrics.json": 500})
        for checkpoint in (embeddings, small):
            sent = bytes_sent(url, lambda checkpoint=checkpoint: store.push(checkpoint, run))  # type: ignore[misc]
            print(f"first push of {checkpoint.stage}: {sum(o.size for o in checkpoint.outputs)} bytes, sent {sent}")
        versions = counts(url)["versions"]

        unchanged = bytes_sent(url, lambda: [store.push(c, run) for c in (embeddings, small)])
        print(f"unchanged push: {unchanged} bytes")
        gates["unchanged push sends 0"] = unchanged == 0
        gates["unchanged push makes no version"] = counts(url)["versions"] == versions

        changed = make_stage(run, "stage_07_level1_preds", "c", {"features/x.npy": 2_000_000, "metrics.json": 400})
        sent = bytes_sent(url, lambda: store.push(changed, run))
        size = sum(output.size for output in changed.outputs)
        print(f"one changed stage of {size} bytes: {sent} bytes")
        gates["a changed stage sends its files only"] = size <= sent <= size + 100  # + a pack's first line

        (run / "features/renamed.npy").write_bytes((run / "features/x.npy").read_bytes())
        outputs = (Output("features/renamed.npy", changed.outputs[0].sha256, changed.outputs[0].size, None),)
        renamed = Checkpoint("stage_08_stacker", 1, "d" * 64, {}, outputs, "", "")
        sent = bytes_sent(url, lambda: store.push(renamed, run))
        print(f"a renamed file: {sent} bytes")
        gates["a rename sends 0"] = sent == 0

        shutil.rmtree(run)
        for location in store.state().manifest.objects.values():  # neither side asks for addresses while it is timed
            address(store.transport(), location)
        pull, plain = measure_pull(folder, store, embeddings, arguments.rounds)
        print(f"pull of {arguments.megabytes} MB: {pull:.1f} s, plain download {plain:.1f} s, ratio {pull / plain:.2f}")
        gates[f"pull within {PULL_FACTOR} of a plain download"] = pull <= PULL_FACTOR * plain
    missed = [gate for gate, held in gates.items() if not held]
    held = len(gates) - len(missed)
    print(f"FAIL {held}/{len(gates)}: {'; '.join(missed)}" if missed else f"PASS {held}/{len(gates)}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
