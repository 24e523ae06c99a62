"""Sharded embedding: whoever computes a shard, and whatever crashed before, the bytes are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from services.train import shards
from services.train.shards import EncoderSpec, Plan, make_plan, read_shard
from services.train.shards_ray import Pool, pool_size, run_ray
from shared.config.embed import EncoderConfig
from shared.errors import ConfigError, DataError, IntegrityError, MissingInput
from shared.fasta import index_fasta, read_fasta, records_at

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = EncoderConfig(name="esm2_tiny", window=64)
SPEC = EncoderSpec(CONFIG, "cpu")
BUDGET = 700


@pytest.fixture(scope="module")
def encoder():
    return SPEC.load()


def write_fasta(path: Path, count: int = 60, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 150, count)
    lengths[7] = 900  # longer than a shard
    with path.open("w") as file:
        for number, length in enumerate(lengths):
            text = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), int(length)))
            lines = [text[start : start + 60] for start in range(0, len(text), 60)]
            file.write(f">sp|P{number:05d}|X some protein\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def fasta(tmp_path) -> Path:
    return write_fasta(tmp_path / "proteins.fasta")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def undisturbed(tmp_path, fasta, encoder) -> dict[str, bytes]:
    plan = make_plan(tmp_path / "undisturbed", fasta, encoder, BUDGET)
    assert shards.run_local(plan, encoder) == len(plan)
    assert shards.finish(plan)
    return contents(plan.folder)


def command(fasta: Path, out: Path, *more: str) -> list[str]:
    return ["embed", "--fasta", str(fasta), "--out", str(out), "--encoder", "esm2_tiny", "--weights", "random-init(0)",
            "--window", "64", "--residues-per-shard", str(BUDGET), "--device", "cpu", "--threads", "1", "--json", *more]  # fmt: skip


def run_cli(arguments: list[str], kill_in_shard: int | None = None) -> subprocess.CompletedProcess[str]:
    """The verb in a process of its own, which may be killed between the computation and the file of its n-th shard."""
    script = f"""
import os, signal, sys
from shared.nn.encoders.encoder import TransformerEncoder
embed, count = TransformerEncoder.embed, [0]
def dying(self, sequences):
    vectors = embed(self, sequences)
    count[0] += 1
    if count[0] == {kill_in_shard}:
        os.kill(os.getpid(), signal.SIGKILL)
    return vectors
TransformerEncoder.embed = dying
from services.train.cli import build_parser
from shared.edge import main
sys.exit(main(build_parser(), {arguments!r}))
"""
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
        cwd=REPOSITORY,
    )


def test_shards_hold_every_protein_once_longest_first(tmp_path, fasta, encoder) -> None:
    plan = make_plan(tmp_path / "out", fasta, encoder, BUDGET)
    assert (np.diff(plan.index[:, shards.LENGTH]) <= 0).all()
    assert plan.bounds[0] == 0
    assert plan.bounds[-1] == 60
    assert (np.diff(plan.bounds) >= 1).all()
    for number in range(len(plan)):
        assert plan.residues(number) < BUDGET + plan.index[plan.bounds[number], shards.LENGTH] + 150
    shards.run_local(plan, encoder)
    found = dict(pair for n in range(len(plan)) for pair in zip(*read_shard(plan.path(n)), strict=True))
    wanted = {record.id: record.sequence for record in read_fasta(fasta)}
    assert found.keys() == wanted.keys()
    for name, sequence in wanted.items():
        assert np.array_equal(found[name], encoder.embed([sequence])[0].astype(np.float16))


def test_a_local_run_killed_in_the_middle_of_a_shard_goes_on(tmp_path, fasta, undisturbed) -> None:
    out = tmp_path / "out"
    assert run_cli(command(fasta, out), kill_in_shard=3).returncode == -signal.SIGKILL
    assert len(list(out.glob("shard-*.npy"))) == 2
    before = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.npy")}
    again = run_cli(command(fasta, out))
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["embedded"] == result["shards"] - 2, "only the shard in flight is embedded twice"
    assert result["complete"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert contents(out) == undisturbed


def test_a_killed_task_of_a_job_array_is_repeated_alone(tmp_path, fasta, undisturbed) -> None:
    out = tmp_path / "out"
    assert run_cli(command(fasta, out, "--shard", "1/3"), kill_in_shard=2).returncode == -signal.SIGKILL
    results = [json.loads(run_cli(command(fasta, out, "--shard", f"{i}/3")).stdout) for i in (0, 2, 1)]
    assert [result["complete"] for result in results] == [False, False, True]
    assert sum(result["embedded"] for result in results) == results[0]["shards"] - 1
    assert contents(out) == undisturbed


def test_tasks_of_a_job_array_may_start_at_once(tmp_path, fasta, undisturbed) -> None:
    out = tmp_path / "out"
    found: list[subprocess.CompletedProcess[str]] = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(run_cli(command(fasta, out, "--shard", f"{i}/2"))))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in found] == [0, 0], found
    assert contents(out) == undisturbed


@pytest.fixture
def ray():
    return pytest.importorskip("ray", reason="Ray is optional; pip install -r envs/pip/ray.txt")


def test_a_killed_actor_is_replaced(tmp_path, encoder, ray) -> None:
    fasta = write_fasta(tmp_path / "many.fasta", 1500)
    quiet = make_plan(tmp_path / "undisturbed", fasta, encoder, 8000)
    shards.run_local(quiet, encoder)
    shards.finish(quiet)
    plan = make_plan(tmp_path / "out", fasta, encoder, 8000)
    killed: list[int] = []

    def kill_one() -> None:
        while not list(plan.folder.glob("shard-*.npy")):
            time.sleep(0.01)
        for child in psutil.Process().children(recursive=True):
            if not killed and "ray::Worker.embed" in " ".join(child.cmdline()):
                killed.append(len(plan.missing()))
                child.kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    assert run_ray(plan, SPEC, Pool(actors=1)) == len(plan)
    killer.join()
    assert killed
    assert 0 < killed[0] < len(plan)
    assert shards.finish(plan)
    assert contents(plan.folder) == contents(quiet.folder)
    assert run_ray(plan, SPEC, Pool(actors=1)) == 0


def test_a_stalled_actor_is_replaced_and_a_hopeless_shard_ends_the_job(tmp_path, fasta, encoder, ray) -> None:
    from shared.errors import ServiceUnavailable

    plan = make_plan(tmp_path / "out", fasta, encoder, BUDGET)
    with pytest.raises(ServiceUnavailable, match="tried 2 times; nothing was finished"):
        run_ray(plan, SPEC, Pool(actors=1, stall_s=0.05, attempts=2))


def test_actors_leave_a_cpu_to_ray() -> None:
    assert pool_size(None, 0, {"CPU": 16}) == 15
    assert pool_size(16, 0, {"CPU": 16}) == 15
    assert pool_size(3, 0, {"CPU": 16}) == 3
    assert pool_size(None, 1, {"CPU": 64, "GPU": 8}) == 8
    assert pool_size(None, 0.5, {"CPU": 64, "GPU": 8}) == 16
    with pytest.raises(ConfigError, match="no room"):
        pool_size(None, 0, {"CPU": 1})
    with pytest.raises(ConfigError, match="0 GPUs"):
        pool_size(None, 1, {"CPU": 8})


def test_without_ray_the_engine_says_how_to_get_it(tmp_path, fasta, encoder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingInput, match="not installed"):
        run_ray(make_plan(tmp_path / "out", fasta, encoder, BUDGET), SPEC, Pool())


@pytest.mark.parametrize("change", ["fasta", "encoder", "size"])
def test_a_folder_keeps_to_what_it_was_begun_with(tmp_path, fasta, encoder, change: str) -> None:
    make_plan(tmp_path / "out", fasta, encoder, BUDGET)
    other = EncoderSpec(EncoderConfig(name="esm2_tiny", window=32), "cpu").load() if change == "encoder" else encoder
    if change == "fasta":
        write_fasta(fasta, seed=1)
    with pytest.raises(ConfigError, match="begun with something else"):
        make_plan(tmp_path / "out", fasta, other, BUDGET + (change == "size"))


def test_a_worker_of_another_kind_is_refused(tmp_path, fasta, encoder) -> None:
    plan = make_plan(tmp_path / "out", fasta, encoder, BUDGET)
    other = EncoderSpec(EncoderConfig(name="esm2_tiny", window=64, weights="random-init(1)"), "cpu").load()
    with pytest.raises(IntegrityError, match="this worker computes with"):
        shards.embed_shard(plan, 0, other)
    assert plan.missing() == list(range(len(plan)))


def test_a_file_that_changed_after_the_plan_is_noticed(tmp_path, fasta, encoder) -> None:
    plan = make_plan(tmp_path / "out", fasta, encoder, BUDGET)
    fasta.write_text(fasta.read_text()[3:])
    with pytest.raises(DataError, match="no protein at byte"):
        shards.embed_shard(plan, 0, encoder)


def test_what_is_no_shard_is_refused(tmp_path) -> None:
    (tmp_path / "shard-0000000.npy").write_bytes(b"torn")
    with pytest.raises(IntegrityError, match="not a shard"):
        read_shard(tmp_path / "shard-0000000.npy")


def test_places_of_a_fasta_lead_back_to_its_proteins(fasta) -> None:
    places = list(index_fasta(fasta))
    again = list(records_at(fasta, [(begin, size) for begin, size, _ in places]))
    wanted = list(read_fasta(fasta))
    assert [(one.id, one.sequence) for one in again] == [(one.id, one.sequence) for one in wanted]
    assert [length for _, _, length in places] == [len(one.sequence) for one in wanted]
    compressed = fasta.with_suffix(".gz")
    subprocess.run(["gzip", "-k", str(fasta)], check=True)
    with pytest.raises(DataError, match="compressed"):
        list(index_fasta(Path(f"{fasta}.gz")))
    assert not compressed.exists()


@pytest.mark.parametrize(("text", "part"), [("0/1", (0, 1)), ("3/8", (3, 8))])
def test_parts(text: str, part: tuple[int, int]) -> None:
    assert shards.parse_part(text) == part


@pytest.mark.parametrize("text", ["8/8", "-1/2", "x/2", "3", ""])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        shards.parse_part(text)


def test_parts_cover_every_shard_once() -> None:
    plan = Plan(Path("/nowhere"), Path(), np.zeros((0, 3), np.int64), np.arange(24), {})
    found = sorted(number for i in range(5) for number in plan.missing((i, 5)))
    assert found == list(range(23))
