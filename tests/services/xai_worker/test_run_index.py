"""The page over all jobs of a run: what is whole is in it, what is not is left out and said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.xai_worker.cli import build_parser
from services.xai_worker.folder import write_result
from services.xai_worker.output import EXPLANATIONS, job_files
from services.xai_worker.parts import Made
from services.xai_worker.run_index import write_run_index
from shared.errors import MissingInput
from tests.fakes.explanations import everything
from tests.services.xai_worker.report.test_html import provenance


def job(xai: Path, name: str) -> Path:
    folder = xai / name
    folder.mkdir(parents=True)
    said = provenance().model_copy(update={"job_id": name})
    subject = everything()
    with job_files(folder, said) as files:
        files.add_protein(Made(list(subject.explanations), list(subject.mutations)), subject.sequence)
        files.finish(None)
    write_result(folder, {"status": "complete", "provenance": said.model_dump(mode="json")})
    return folder


@pytest.fixture
def xai(tmp_path: Path) -> Path:
    for name in ("local-a", "local-b"):
        job(tmp_path / "xai", name)
    return tmp_path / "xai"


def test_every_explanation_of_every_job_is_in_it_with_links_that_lead_somewhere(xai: Path) -> None:
    count = len(everything().explanations)
    page, jobs, explanations = write_run_index(xai)
    assert (page, jobs, explanations) == (xai / "index.html", 2, 2 * count)
    text = page.read_text()
    assert text.count('<td><a href="local-a/index.html">local-a</a></td>') == count
    links = {part.split('"')[0] for part in text.split('href="')[1:]}
    local = {link for link in links if link.startswith("local-")}
    assert len(local) == 4
    assert all((xai / link).is_file() for link in local)
    assert "2 jobs" in text


def test_a_job_of_the_page_alone_keeps_its_own_words(xai: Path) -> None:
    text = (xai / "local-a/index.html").read_text()
    assert "job local-a" in text
    assert '<th data-kind="text">Job</th>' not in text


def test_what_is_not_whole_is_left_out(xai: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (xai / "local-b" / EXPLANATIONS).write_bytes(b"cut")
    (xai / "half").mkdir()
    (xai / "elsewhere").symlink_to(job(xai.parent / "other", "outside"))
    older = job(xai, "local-older")
    lines = (older / EXPLANATIONS).read_bytes().replace(b'"method":"occlusion"', b'"method":7')
    (older / EXPLANATIONS).write_bytes(lines)
    result = json.loads((older / "result.json").read_bytes())
    del result["files"]
    write_result(older, result)
    _, jobs, _ = write_run_index(xai)
    assert jobs == 1
    assert "local-older is left out" in capsys.readouterr().err


def test_a_run_without_explanations(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no finished explanations"):
        write_run_index(tmp_path / "xai")


def test_the_verb(xai: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = build_parser().parse_args(["index", "--from-manifest", str(xai.parent / "manifest.json"), "--json"])
    assert arguments.command(arguments) == 0
    assert json.loads(capsys.readouterr().out)["jobs"] == 2
