"""Headless Chromium on pages from the disk; every request that is not one of these pages fails the test."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.xai_worker.folder import RESULT
from services.xai_worker.output import job_files
from services.xai_worker.parts import Made
from services.xai_worker.report.ui import bundle
from services.xai_worker.structure import read_structure
from shared.atomic import write_json
from tests.fakes.explained_run import ExplainedRun
from tests.fakes.explanations import KINASE, everything, explained
from tests.fakes.structures import pdb

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDED = "S69441"  # the one with a structure: software WebGL is slow
HOSTILE = "P9<img src=x onerror=alert(1)>"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = None
    try:
        import playwright  # noqa: F401
    except ImportError:
        missing = "playwright is not installed"
    if shutil.which("chromium") is None:
        missing = "no chromium on the PATH (Debian: apt-get install chromium)"
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))


@dataclass
class Tab:
    """A page, and what went wrong in it."""

    page: object
    requested: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job folder: a protein with everything, one with a structure, one whose faithfulness fails, one with a hostile id."""
    folder = tmp_path_factory.mktemp("browser")
    model = folder / "model.pdb"
    model.write_bytes(pdb(KINASE))
    run = ExplainedRun(tmp_path_factory.mktemp("run"))
    structures = {FOLDED: read_structure(model, "P69441", KINASE)}
    from services.xai_worker.exports import EXPORTERS

    with job_files(folder, run.provenance(), tuple(EXPORTERS), structures) as files:
        rich = everything()
        files.add_protein(Made(rich.explanations, rich.mutations), KINASE)
        files.add_protein(Made([item.model_copy(update={"protein": FOLDED}) for item in rich.explanations[:5]]), KINASE)
        failing = everything(faithful=False)
        renamed = [item.model_copy(update={"protein": "Q00001"}) for item in failing.explanations]
        files.add_protein(Made(renamed), KINASE)
        hostile = explained(HOSTILE)
        files.add_protein(Made(hostile.explanations), hostile.sequence)
        files.finish(None)
    write_json(folder / RESULT, {})
    return folder


@pytest.fixture(scope="session")
def needs_libraries() -> None:
    for library in ("viewer", "tracks"):
        if not bundle.built(library):  # type: ignore[arg-type]
            pytest.skip("the front-end libraries are not built: make ui")


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where screenshots are kept."""
    folder = Path(os.environ.get("GOWHY_SCREENSHOTS", REPOSITORY / "out/bench/browser"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def tab(chromium, job) -> Iterator[Tab]:  # type: ignore[no-untyped-def]
    """A fresh page, 1280 x 900. At the end: nothing outside the job was asked for, and no script failed."""
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, accept_downloads=True, reduced_motion="reduce"
    )
    found = Tab(context.new_page())
    page = found.page
    page.on("request", lambda request: found.requested.append(request.url))  # type: ignore[attr-defined]
    page.on("pageerror", lambda error: found.problems.append(str(error)))  # type: ignore[attr-defined]
    page.on("console", lambda said: found.problems.append(said.text) if said.type == "error" else None)  # type: ignore[attr-defined]
    yield found
    context.close()
    root = job.as_uri()
    outside = [url for url in found.requested if not url.startswith((root, "data:", "blob:"))]
    assert outside == []
    assert found.problems == [], json.dumps(found.problems, indent=1)
