from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from contracts.store_contract import PATHS, STAGE, make_run

from services.train.cli import build_parser
from services.train.store_cli import CHECKPOINTS, DAMAGED, DIFFERENT, VERBS
from shared.atomic import write_json
from shared.edge import main
from shared.stores import open_store

EMBEDDINGS = "stage_06_embeddings_esm2"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with two finished stages."""
    folder = tmp_path / "out/run"
    for stage in (STAGE, EMBEDDINGS):
        checkpoint = make_run(folder, stage=stage)
        write_json(folder / CHECKPOINTS / f"{stage}.json", checkpoint.to_json())
    return folder


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """`call(verb, *arguments)` -> exit code and the JSON on stdout."""

    def run(verb: str, *arguments: object) -> tuple[int, Any]:
        options = ["--store", f"local://{tmp_path / 'store'}", "--set", f"paths.out={tmp_path / 'out'}", "--json"]
        code = main(build_parser(), ["store", verb, *map(str, arguments), *options])
        text = capsys.readouterr().out
        return code, json.loads(text) if text else None

    return run


def test_every_verb_of_the_design_is_there() -> None:
    assert set(VERBS) == {"push", "pull", "status", "diff", "verify", "repair", "gc", "freeze", "log"}
    with pytest.raises(SystemExit) as ended:
        main(build_parser(), ["store", "publish", "--help"])
    assert ended.value.code == 0


def test_push_says_what_it_would_send_then_sends_it_then_nothing(call, run_folder, tmp_path) -> None:
    code, planned = call("push", "--run", run_folder, "--dry-run")
    assert (code, [stage["objects"] for stage in planned["stages"]]) == (0, [2, 2])
    assert not (tmp_path / "store").exists()
    code, done = call("push", "--run", run_folder)
    assert [stage["objects"] for stage in done["stages"]] == [2, 0]  # the same content in both
    assert done["stages"][0]["bytes"] == planned["stages"][0]["bytes"]
    code, again = call("push", "--run", run_folder)
    assert (code, [stage["published"] for stage in again["stages"]]) == (0, [False, False])


def test_pull_brings_one_stage_or_all_where_the_runner_finds_them(call, run_folder, tmp_path) -> None:
    call("push", "--run", run_folder)
    code, planned = call("pull", "--into", tmp_path / "b", "--stage", "stage_06", "--dry-run")
    assert (code, [stage["stage"] for stage in planned["stages"]]) == (0, [EMBEDDINGS])
    assert not (tmp_path / "b").exists()
    call("pull", "--into", tmp_path / "b", "--stage", "stage_06")
    assert [path.stem for path in (tmp_path / "b" / CHECKPOINTS).iterdir()] == [EMBEDDINGS]
    call("pull", "--into", tmp_path / "b")
    assert call("status", "--run", tmp_path / "b")[0] == 0
    assert call("pull", "--into", tmp_path / "b", "--stage", "stage_09")[0] == 66


def test_status_and_diff_see_a_difference(call, run_folder) -> None:
    code, found = call("status", "--run", run_folder)
    assert (code, set(found["compared"].values())) == (DIFFERENT, {"not pushed"})
    call("push", "--run", run_folder)
    assert call("status", "--run", run_folder)[0] == 0
    assert call("diff", run_folder) == (0, {})
    changed = make_run(run_folder, "changed")
    write_json(run_folder / CHECKPOINTS / f"{STAGE}.json", changed.to_json())
    assert call("status", "--run", run_folder)[0] == DIFFERENT
    code, found = call("diff", run_folder)
    assert code == DIFFERENT
    assert found[STAGE]["changed"] == sorted(PATHS)
    call("push", "--run", run_folder, "--stage", STAGE)
    assert call("diff", "2", "3")[0] == DIFFERENT
    assert call("diff", "9")[0] == 66


def test_a_pinned_version_is_pulled(call, run_folder, tmp_path) -> None:
    call("push", "--run", run_folder)
    shutil.copytree(run_folder, tmp_path / "old")
    checkpoint = make_run(run_folder, "newer")
    write_json(run_folder / CHECKPOINTS / f"{STAGE}.json", checkpoint.to_json())
    call("push", "--run", run_folder, "--stage", STAGE)
    call("pull", "--into", tmp_path / "b", "--stage", STAGE, "--version", "2")
    assert (tmp_path / "b" / PATHS[0]).read_bytes() == (tmp_path / "old" / PATHS[0]).read_bytes()
    assert [one["version"] for one in call("log")[1]] == ["3", "2", "1"]
    assert call("pull", "--into", tmp_path / "b", "--version", "77")[0] == 66


def test_damage_is_found_and_mended(call, run_folder, tmp_path) -> None:
    call("push", "--run", run_folder)
    assert call("verify")[0] == 0
    objects = sorted((tmp_path / "store/objects").rglob("*"))
    damaged = next(path for path in objects if path.is_file())
    damaged.write_bytes(b"X" * damaged.stat().st_size)
    code, found = call("verify")
    assert (code, list(found["problems"].values())) == (DAMAGED, ["damaged"])
    assert call("verify", "--depth", "size")[0] == 0  # that is what a size check cannot see
    assert call("repair", "--run", tmp_path / "empty")[0] == DAMAGED
    assert call("repair", "--run", run_folder)[0] == 0
    assert call("verify", "--depth", "bytes")[0] == 0
    assert call("verify", "--sample", "0.5")[1]["checked"] == 1
    assert call("verify", "--sample", "2")[0] == 64


def test_gc_and_freeze(call, run_folder, tmp_path) -> None:
    call("push", "--run", run_folder)
    assert call("gc", "--dry-run")[1]["objects"] == 0
    assert call("gc", "--grace-hours", "0")[0] == 0
    code, done = call("freeze", tmp_path / "frozen")
    assert (code, done["files"]) == (0, 4)
    mounted = open_store(f"mount://{tmp_path / 'frozen'}", tmp_path / "cache")
    assert {c.stage for c in mounted.checkpoints()} == {STAGE, EMBEDDINGS}
    assert call("freeze", tmp_path / "out")[0] == 77  # a folder with something else in it
    assert call("freeze", tmp_path / "frozen", "--attach")[0] == 64  # a local store cannot be mounted by a notebook


def test_wrong_names_have_their_exit_codes(call, tmp_path) -> None:
    assert call("push", "--run", tmp_path / "nothing")[0] == 66
    assert main(build_parser(), ["store", "log", "--store", "gopher://x"]) == 78
    with pytest.raises(SystemExit) as left:
        main(build_parser(), ["store", "juggle"])
    assert left.value.code == 64
