from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fakes import stages as fake
from fakes.team import Follower

from services.train.runner import Runner, Selection
from services.train.stage import StageContext
from shared.checkpoint import checkpoint_path
from shared.config import Config, TextConfig
from shared.errors import CannotWrite, GowhyError, MissingInput, TryAgain, UsageError
from shared.logs import Logger
from shared.stores import LocalStore, MemoryStore

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    fake.CALLS.clear()


def runner(folder: Path, config: Config | None = None, store=None, stages=fake.PIPELINE, **more) -> Runner:
    return Runner(stages, config or Config(), folder, store or MemoryStore(), Logger(None, quiet=True), **more)


def actions(steps) -> list[str]:
    return [step.action for step in steps]


def test_a_second_run_skips_everything(tmp_path) -> None:
    store = MemoryStore()
    assert actions(runner(tmp_path, store=store).run()) == ["run", "run"]
    assert actions(runner(tmp_path, store=store).run()) == ["skip", "skip"]
    assert fake.CALLS == ["first", "second"]


def test_a_changed_section_reruns_the_stages_that_read_it_and_what_follows(tmp_path) -> None:
    runner(tmp_path).run()
    changed = Config(text=TextConfig(drop_lines=["go", "keywords"]))
    steps = runner(tmp_path, changed).run()
    assert actions(steps) == ["run", "run"]
    assert "config:text" in steps[0].reason
    assert json.loads((tmp_path / "external/goa_manifest.json").read_text())["text"] == ["a", "2"]


def test_a_section_nobody_reads_reruns_nothing(tmp_path) -> None:
    runner(tmp_path).run()
    changed = Config(stacker=Config().stacker.model_copy(update={"layers": 7}))
    assert actions(runner(tmp_path, changed).run()) == ["skip", "skip"]


def test_a_new_version_reruns(tmp_path) -> None:
    runner(tmp_path).run()
    newer = (dataclasses.replace(fake.FIRST, version=2), fake.SECOND)
    steps = runner(tmp_path, stages=newer).run()
    assert steps[0].reason == "version 1 -> 2"
    assert steps[1].action == "skip"  # same bytes came out


@pytest.mark.parametrize("damage", ["change", "delete", "truncate", "checkpoint"])
def test_damage_is_found_and_mended_from_the_store(tmp_path, damage) -> None:
    store = MemoryStore()
    runner(tmp_path, store=store).run()
    path = tmp_path / "external/text_manifest.json"
    before = path.read_bytes()
    if damage == "change":
        path.write_bytes(before.replace(b"2", b"3"))
    elif damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(b"")
    else:
        checkpoint_path(tmp_path, "first").write_text("{not json")
    assert actions(runner(tmp_path, store=store).run()) == ["restore", "skip"]
    assert path.read_bytes() == before
    path.write_bytes(b"x")
    assert actions(runner(tmp_path, store=MemoryStore()).run()) == ["run", "skip"]
    assert path.read_bytes() == before


def test_a_fresh_machine_restores_all_from_the_store(tmp_path) -> None:
    store = LocalStore(tmp_path / "store")
    runner(tmp_path / "a", store=store).run()
    assert actions(runner(tmp_path / "b", store=store).run()) == ["restore", "restore"]
    assert fake.CALLS == ["first", "second"]


def test_a_damaged_store_does_not_stop_a_run(tmp_path) -> None:
    store = MemoryStore()
    runner(tmp_path / "a", store=store).run()
    for key in [k for k in store.data if k.startswith("objects/")]:
        store.data[key] = b"damaged"
    assert actions(runner(tmp_path / "b", store=store).run()) == ["run", "run"]


def test_outputs_that_are_not_made_any_more_disappear(tmp_path) -> None:
    runner(tmp_path).run()

    def less(ctx) -> None:
        ctx.write("external/entryid_text.tsv", __import__("pandas").DataFrame({"EntryID": ["P1"], "text": ["a"]}))

    smaller = dataclasses.replace(
        fake.FIRST, version=2, run=less, outputs=lambda config: ("external/entryid_text.tsv",)
    )
    runner(tmp_path, stages=(smaller, fake.SECOND)).run()
    assert not (tmp_path / "external/text_manifest.json").exists()


def test_a_stage_that_forgets_an_output_leaves_nothing(tmp_path) -> None:
    forgetful = fake.with_run(fake.FIRST, lambda ctx: ctx.write("external/text_manifest.json", {}))
    with pytest.raises(GowhyError, match="without writing external/entryid_text"):
        runner(tmp_path, stages=(forgetful, fake.SECOND)).run()
    assert not (tmp_path / "external").exists()


def test_undeclared_access_is_refused(tmp_path) -> None:
    for run, word in (
        (lambda ctx: ctx.write("metrics.json", {}), "output"),
        (lambda ctx: ctx.read("metrics.json"), "input"),
        (lambda ctx: ctx.settings(type(Config().stacker)), "sections"),
    ):
        with pytest.raises(KeyError, match=word):
            runner(tmp_path, stages=(fake.with_run(fake.FIRST, run),)).run()


def test_a_full_disk_is_named_and_finished_stages_stay(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_STAGE_FAILS", "1")
    with pytest.raises(CannotWrite, match="disk is full"):
        runner(tmp_path).run()
    monkeypatch.delenv("FAKE_STAGE_FAILS")
    assert actions(runner(tmp_path).run()) == ["skip", "run"]


def test_two_runs_at_once(tmp_path) -> None:
    def nested(ctx) -> None:
        with pytest.raises(TryAgain, match="another process"):
            runner(tmp_path).run()
        fake.FIRST.run(ctx)

    runner(tmp_path, stages=(fake.with_run(fake.FIRST, nested), fake.SECOND)).run()


def test_only_and_from_stage(tmp_path) -> None:
    with pytest.raises(MissingInput, match="first is not up to date"):
        runner(tmp_path).run(Selection(only="second"))
    assert actions(runner(tmp_path).run(Selection(only="first"))) == ["run"]
    assert actions(runner(tmp_path).run(Selection(only="second"))) == ["skip", "run"]
    assert actions(runner(tmp_path).run(Selection(from_stage="second"))) == ["skip", "run"]
    assert actions(runner(tmp_path).run(Selection(from_stage="first"))) == ["run", "run"]
    with pytest.raises(UsageError, match="no stage 'third'"):
        runner(tmp_path).run(Selection(only="third"))


def lender(found: list[list[str]]):
    """The pipeline; its first stage notes which runs it may take from, and copies what the newest has."""

    def run(ctx: StageContext) -> None:
        earlier = list(ctx.earlier())
        found.append([item.run_folder.name for item in earlier])
        assert ctx.digests["config:text"]
        if earlier and all(earlier[0].copy(path, ctx.output(path)) for path in sorted(ctx.output_paths)):
            ctx.taken.append("text")
        else:
            fake.FIRST.run(ctx)

    return (fake.with_run(fake.FIRST, run), fake.SECOND)


def test_a_stage_may_take_from_runs_beside_it_the_newest_first_unless_it_is_asked_for_again(tmp_path) -> None:
    found: list[list[str]] = []
    stages = lender(found)
    for number, name in enumerate(("a", "b")):
        runner(tmp_path / name, stages=stages).run()
        os.utime(checkpoint_path(tmp_path / name, "first"), (number, number))
    runner(tmp_path / "c", stages=stages).run()
    runner(tmp_path / "c", stages=stages).run(Selection(from_stage="first"))
    assert found == [[], ["a"], ["b", "a"], []]
    assert fake.CALLS == ["first", "second", "second", "second", "first", "second"]
    assert (tmp_path / "a/external/text_manifest.json").read_bytes() == (
        tmp_path / "b/external/text_manifest.json"
    ).read_bytes()


def test_another_version_and_a_damaged_checkpoint_lend_nothing(tmp_path) -> None:
    found: list[list[str]] = []
    runner(tmp_path / "a", stages=[dataclasses.replace(fake.FIRST, version=9), fake.SECOND]).run()
    runner(tmp_path / "b").run()
    checkpoint_path(tmp_path / "b", "first").write_text("{")
    runner(tmp_path / "c", stages=lender(found)).run()
    assert found == [[]]


def test_what_was_taken_is_no_measurement_of_cost(tmp_path) -> None:
    stages = lender([])
    for name in ("a", "b"):
        log = Logger(tmp_path / name / "logs", quiet=True)
        Runner(stages, Config(), tmp_path / name, MemoryStore(), log).run()
    costs = {name: (tmp_path / name / "logs/costs.jsonl").read_text() for name in ("a", "b")}
    assert '"first"' in costs["a"]
    assert '"first"' not in costs["b"]
    assert '"second"' in costs["b"]


def test_plan_says_what_and_why_and_does_nothing(tmp_path) -> None:
    store = MemoryStore()
    plan = runner(tmp_path, store=store).plan()
    assert [(s.action, s.reason) for s in plan] == [
        ("run", "not done yet"),
        ("run", "external/entryid_text.tsv will be made again"),
    ]
    assert fake.CALLS == []
    assert list(tmp_path.iterdir()) == []
    runner(tmp_path, store=store).run()
    assert actions(runner(tmp_path, store=store).plan()) == ["skip", "skip"]
    assert actions(runner(tmp_path / "other", store=store).plan()) == ["restore", "restore"]


@pytest.mark.parametrize("point", ["before-outputs", "between-outputs", "before-checkpoint"])
def test_death_at_every_write_of_a_commit(tmp_path, point) -> None:
    """A process that dies between two writes leaves a folder from which a restart gives the same bytes."""
    script = textwrap.dedent(
        """
        import sys
        sys.path[:0] = [".", "tests"]
        from pathlib import Path
        from fakes import stages as fake
        from services.train.runner import Runner
        from shared.config import Config
        from shared.logs import Logger
        from shared.stores import LocalStore
        folder = Path(sys.argv[1])
        Runner(fake.PIPELINE, Config(), folder / "run", LocalStore(folder / "store"), Logger(None, quiet=True)).run()
        """
    )

    def start(folder: Path, **environment: str) -> int:
        return subprocess.run(
            [sys.executable, "-c", script, str(folder)], cwd=REPOSITORY, env={**os.environ, **environment}, check=False
        ).returncode

    assert start(tmp_path / "a", GOWHY_CRASH_AT=point) == 137
    assert start(tmp_path / "a") == 0
    assert start(tmp_path / "b") == 0
    files = sorted(p.relative_to(tmp_path / "b/run") for p in (tmp_path / "b/run/external").rglob("*"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "a/run" / file).read_bytes() == (tmp_path / "b/run" / file).read_bytes()
    assert not list((tmp_path / "a/run/.staging").iterdir())
    assert not list((tmp_path / "a/run/.work").iterdir())


def test_a_follower_joins_a_stage_once_and_shares_the_fits_that_it_hears_of(tmp_path) -> None:
    heard: list[str] = []

    class Joined:
        def __init__(self, ctx: StageContext):
            heard.append(f"joined {ctx.stage.id}")
            with pytest.raises(KeyError):
                ctx.output("external/text_manifest.json")  # nothing may be written
            self.share = heard.append

    stages = (dataclasses.replace(fake.FIRST, fits=Joined), dataclasses.replace(fake.SECOND, fits=Joined))
    calls = [("first", "a"), ("first", "b"), ("second", "c")]
    runner(tmp_path / "absent", stages=stages, team=Follower(calls=calls)).follow()
    assert heard == ["joined first", "a", "b", "joined second", "c"]
    assert not (tmp_path / "absent").exists()


def test_a_call_into_a_stage_that_nobody_can_join_is_a_defect(tmp_path) -> None:
    with pytest.raises(GowhyError, match="cannot join"):
        runner(tmp_path, team=Follower(calls=[("first", "a")])).follow()
