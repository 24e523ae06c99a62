"""One fake run for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.explained_run import ExplainedRun


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> ExplainedRun:
    return ExplainedRun(Path(tmp_path_factory.mktemp("explained")))
