"""What a run or a store holds, as figures, page and JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
import re

import pytest
from fakes.finished_run import STAGES, make_finished_run

from services.train.cli import build_parser
from services.train.diagnostics import Report, diagnose, newest_run, report
from services.train.diagnostics_page import write_page
from shared.checkpoint import Checkpoint, Output
from shared.edge import main
from shared.errors import MissingInput, UsageError
from shared.stores import MemoryStore

PNG = b"\x89PNG\r\n"


@pytest.fixture
def found(tmp_path) -> Report:
    make_finished_run(tmp_path / "run")
    return diagnose(manifest=tmp_path / "run/manifest.json")


def checkpoint(stage: str, made: dict[str, str], read: dict[str, str], finished: str = "05") -> Checkpoint:
    outputs = tuple(Output(path, sha, 1000, 3) for path, sha in made.items())
    times = (f"2026-01-01T00:00:{second}+00:00" for second in ("00", finished))
    return Checkpoint(stage, 1, f"{stage}-{'-'.join(made.values())}", read, outputs, *times)


def test_files_rows_and_times_are_the_manifest_s(found) -> None:
    assert found.source == "run finished (complete)"
    assert [file.path for file in found.largest(2)] == ["features/train_embeds_esm2.npy", "model.pth"]
    assert {t.stage: t.seconds for t in found.timings} == {
        **{stage: seconds for stage, (seconds, _) in STAGES.items()},
        "stage_09_submission": 5,
    }
    assert [(c.path, c.rows, c.table, c.holds) for c in found.rows] == [
        ("features/train_embeds_esm2.npy", 40, "parsed/train_seq.feather", True),
        ("features/test_embeds_esm2.npy", 9, "parsed/test_seq.feather", True),
    ]
    assert found.total_bytes == sum(file.size for file in found.files)


def test_each_figure_draws_what_it_says(found) -> None:
    figures = found.figures()
    assert set(figures) == {"largest_files", "size_distribution", "row_counts", "stage_timings"}
    bars = figures["largest_files"].axes[0].patches
    assert [round(bar.get_width() * 1e6) for bar in bars] == [file.size for file in found.largest()][::-1]
    counts = [bar.get_height() for bar in figures["size_distribution"].axes[0].patches]
    assert sum(counts) == len(found.files)
    assert counts[:5] == [sum(10**e <= f.size < 10 ** (e + 1) for f in found.files) for e in range(5)][: len(counts)]
    assert [bar.get_width() for bar in figures["stage_timings"].axes[0].patches] == [5, 90, 30, 4]
    assert figures["row_counts"].axes[0].get_title() == "Rows: all 2 agree"


def test_a_huge_file_is_in_the_distribution(found) -> None:
    huge = dataclasses.replace(found.files[0], size=3 * 10**11)
    figure = dataclasses.replace(found, files=(huge,)).figures()["size_distribution"]
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 1


def test_rows_that_disagree_stand_out(found, tmp_path) -> None:
    files = [dataclasses.replace(f, rows=39) if f.path.endswith("train_embeds_esm2.npy") else f for f in found.files]
    done = [Checkpoint(f.stage, 1, "", {}, (Output(f.path, "", f.size, f.rows),), "", "") for f in files]
    wrong = report("test", done)
    assert [(c.path, c.rows, c.expected) for c in wrong.failed()] == [("features/train_embeds_esm2.npy", 39, 40)]
    assert wrong.figures()["row_counts"].axes[0].get_title() == "Rows: 1 of 2 disagree"
    page = write_page(wrong, tmp_path)[-1].read_text()
    assert "1 of 2 row counts disagree" in page
    assert wrong.to_json()["rows_hold"] is False


def test_the_page_needs_nothing_else(found, tmp_path) -> None:
    *pictures, page = write_page(found, tmp_path / "d")
    assert all(path.read_bytes().startswith(PNG) for path in pictures)
    text = page.read_text()
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert [base64.b64decode(data) for data in embedded] == [path.read_bytes() for path in pictures]
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|<script""", text)
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_names_are_escaped(found, tmp_path) -> None:
    evil = dataclasses.replace(found, source="<script>alert(1)</script>")
    assert "<script>" not in write_page(evil, tmp_path)[-1].read_text()


def test_a_store_s_newest_run_is_one_run(tmp_path) -> None:
    first, second = "stage_01_parsed", "stage_02_external_text"
    old = checkpoint(first, {"a": "old"}, {})
    new = checkpoint(first, {"a": "new"}, {}, finished="09")
    reader = checkpoint(second, {"b": "1"}, {"a": "old"}, finished="10")
    assert [c.fingerprint for c in newest_run([new, old, reader])] == [old.fingerprint, reader.fingerprint]
    assert newest_run([new, old]) == [new]
    assert newest_run([]) == []


def test_the_newest_run_in_a_store_is_drawn(tmp_path) -> None:
    store = MemoryStore()
    with pytest.raises(MissingInput):
        diagnose(store=store)
    (tmp_path / "parsed").mkdir()
    (tmp_path / "parsed/ontology.json").write_bytes(b"x" * 1000)
    output = Output.of(tmp_path, "parsed/ontology.json")
    store.push(dataclasses.replace(checkpoint("stage_01_parsed", {}, {}), outputs=(output,)), tmp_path)
    found = diagnose(store=store)
    assert found.source == "newest run in memory://"
    assert ([t.seconds for t in found.timings], found.total_bytes) == ([5], 1000)


def test_exactly_one_source() -> None:
    with pytest.raises(UsageError):
        diagnose()


def test_the_verb_writes_and_reports(tmp_path, capsys) -> None:
    make_finished_run(tmp_path / "run", status="partial")
    manifest = str(tmp_path / "run/manifest.json")
    assert main(build_parser(), ["diagnose", "--manifest", manifest, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows_hold"], found["source"]) == (True, "run finished (partial)")
    assert found["written"][-1] == str(tmp_path / "run/diagnostics/index.html")
    empty = ["diagnose", "--store", "local://", "--out", str(tmp_path / "none")]
    assert main(build_parser(), empty) == 66
    assert main(build_parser(), ["diagnose", "--manifest", str(tmp_path / "none.json")]) == 66
    with pytest.raises(SystemExit, match="64"):
        main(build_parser(), ["diagnose"])
