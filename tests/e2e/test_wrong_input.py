"""Wrong input, tried: each ends with its exit code, a message that says what and where, and nothing half-written."""

from __future__ import annotations

import fcntl
import gzip
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from services.train.cli import build_parser
from shared.edge import main

OBO = """format-version: 1.2
data-version: test

[Term]
id: GO:0003674
name: molecular_function
namespace: molecular_function

[Term]
id: GO:0008150
name: biological_process
namespace: biological_process

[Term]
id: GO:0005575
name: cellular_component
namespace: cellular_component

[Term]
id: GO:0005488
name: binding
namespace: molecular_function
is_a: GO:0003674 ! molecular_function

[Term]
id: GO:0005524
name: ATP binding
namespace: molecular_function
is_a: GO:0005488 ! binding

[Term]
id: GO:0000001
name: obsolete thing
namespace: molecular_function
is_obsolete: true
"""


@pytest.fixture
def data(tmp_path) -> Path:
    """A small correct data set."""
    generator = random.Random(3)
    folder = tmp_path / "data"
    folder.mkdir()
    proteins = {f"P{i:05d}": "".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=60)) for i in range(24)}
    fasta = [f">{name}\n{sequence}\n" for name, sequence in proteins.items()]
    (folder / "train.fasta").write_text("".join(fasta[:20]))
    (folder / "test.fasta").write_text("".join(fasta[20:]))
    rows = [f"{name}\tGO:0005524\tF\n" for name in list(proteins)[:20]]
    (folder / "terms.tsv").write_text("EntryID\tterm\taspect\n" + "".join(rows))
    (folder / "go.obo").write_text(OBO)
    return folder


def parse(data: Path, out: Path, *more: str) -> int:
    """Run stage 1 in this process."""
    sets = {
        "data.train_fasta": data / "train.fasta",
        "data.test_fasta": data / "test.fasta",
        "data.train_terms": data / "terms.tsv",
        "data.obo": data / "go.obo",
        "paths.out": out,
        "run_id": "r",
    }
    arguments = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
    return main(build_parser(), ["run", "--quiet", "--only", "stage_01_parsed", *arguments, *more])


def change(name: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(data: Path) -> None:
        path = data / name
        path.write_text(edit(path.read_text()))

    return apply


def truncate_gzip(data: Path) -> None:
    path = data / "train.fasta"
    path.write_bytes(gzip.compress(path.read_bytes())[:-20])


CYCLE = "\n[Term]\nid: GO:0000010\nname: a\nnamespace: molecular_function\nis_a: GO:0000011\n\n[Term]\nid: GO:0000011\nname: b\nnamespace: molecular_function\nis_a: GO:0000010\n"

CASES = {
    "truncated fasta": (truncate_gzip, 65, "train.fasta"),
    "text before the first header": (change("train.fasta", lambda text: "MKV\n" + text), 65, "train.fasta:1"),
    "empty sequence": (change("train.fasta", lambda text: text + ">P9\n"), 65, "P9"),
    "illegal residue": (change("train.fasta", lambda text: text + ">P9\nMK1\n"), 65, "train.fasta:42"),
    "duplicate id": (change("train.fasta", lambda text: text + ">P00000\nMKVL\n"), 65, "P00000"),
    "empty test set": (change("test.fasta", lambda text: ""), 65, "test.fasta"),
    "only unknown terms": (change("terms.tsv", lambda text: text.replace("GO:0005524", "GO:7777777")), 65, "terms.tsv"),
    "aspect against the ontology": (
        change("terms.tsv", lambda text: text + "P00001\tGO:0005524\tP\n"),
        65,
        "terms.tsv:22",
    ),
    "unknown aspect code": (change("terms.tsv", lambda text: text + "P00001\tGO:0005524\tQ\n"), 65, "terms.tsv:22"),
    "cyclic ontology": (change("go.obo", lambda text: text + CYCLE), 65, "GO:0000010"),
    "not an ontology": (change("go.obo", lambda text: "hello\n"), 65, "go.obo"),
    "missing file": (lambda data: (data / "go.obo").unlink(), 66, "go.obo"),
}


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "-"))
def test_bad_input(case, data, tmp_path, capfd) -> None:
    spoil, code, named = CASES[case]
    spoil(data)
    assert parse(data, tmp_path / "out") == code
    message = capfd.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert named in message
    assert not (tmp_path / "out/r/parsed").exists()
    assert not (tmp_path / "out/r/manifest.json").exists()
    assert not list((tmp_path / "out").glob("r/.checkpoints/*"))


def test_good_input_with_some_unknown_terms_warns_and_goes_on(data, tmp_path, capfd) -> None:
    change("terms.tsv", lambda text: text + "P00001\tGO:7777777\tF\nP00002\tGO:0000001\tF\nQ99999\tGO:0005524\tF\n")(
        data
    )
    assert parse(data, tmp_path / "out") == 0
    log = (tmp_path / "out/r/logs/run.jsonl").read_text()
    assert "warning" in log
    assert "GO:7777777" in log
    assert (tmp_path / "out/r/parsed/train_terms.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--set", "level1.cnn.epoch=3"], 78, "level1.cnn.epochs"),
        (["--set", "split.folds=one"], 78, "split.folds"),
        (["--set", "nonsense"], 64, "KEY=VALUE"),
        (["--only", "stage_99"], 64, "stage_01_parsed"),
        (["--store", "gopher://x"], 78, "local://"),
        (["--config", "/nowhere.yaml"], 66, "/nowhere.yaml"),
        (["--set", "device=cuda:7"], 66, "cuda"),
        (["--set", "data.obo=null"], 66, "data.obo"),
    ],
)
def test_bad_commands(data, tmp_path, capfd, arguments, code, named) -> None:
    assert parse(data, tmp_path / "out", *arguments) == code
    assert named in capfd.readouterr().err


def test_a_corrupted_checkpoint_is_reported_and_the_stage_runs_again(data, tmp_path) -> None:
    assert parse(data, tmp_path / "out") == 0
    (tmp_path / "out/r/.checkpoints/stage_01_parsed.json").write_bytes(b"\x00garbage")
    assert parse(data, tmp_path / "out") == 0
    assert "damaged checkpoint" in (tmp_path / "out/r/logs/run.jsonl").read_text()


def test_two_runs_at_once(data, tmp_path, capfd) -> None:
    (tmp_path / "out/r").mkdir(parents=True)
    with (tmp_path / "out/r/.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert parse(data, tmp_path / "out") == 75
    assert "another process" in capfd.readouterr().err
    assert parse(data, tmp_path / "out") == 0


@pytest.fixture
def mount(tmp_path):
    """Mount a small tmpfs; skip where that is not allowed."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        folder = tmp_path / f"mount{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "gowhy-test", str(folder)], capture_output=True, check=False
        )
        if done.returncode != 0:
            pytest.skip("mounting a tmpfs is not permitted here")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(data, tmp_path, mount, capfd) -> None:
    folder = mount("size=128k")
    assert parse(data, folder / "out") == 73
    assert "disk is full" in capfd.readouterr().err
    assert not (folder / "out/r/parsed").exists()


def test_a_read_only_out_folder(data, tmp_path, mount, capfd) -> None:
    folder = mount("ro")
    assert parse(data, folder / "out") == 73
    assert "writable" in capfd.readouterr().err


def test_an_out_path_that_is_a_file(data, tmp_path, capfd) -> None:
    (tmp_path / "out").write_text("x")
    assert parse(data, tmp_path / "out") == 73
    assert "not a folder" in capfd.readouterr().err
