"""Shared by all tests: where real data is, and one thread for repeatable sums."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# The first call of a compiled function, and a busy machine, take longer than any fixed deadline.
settings.register_profile("gowhy", deadline=None)
settings.load_profile("gowhy")

REPOSITORY = Path(__file__).resolve().parents[1]
# contracts/ and fakes/ are shared by the mirrored test folders.
sys.path.insert(0, str(REPOSITORY / "tests"))


@pytest.fixture(scope="session")
def gowhy_data() -> Path:
    """The folder with real data; the test skips where there is none."""
    folder = Path(os.environ.get("GOWHY_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "tiny").is_dir():
        pytest.skip(f"no real data in {folder}; set GOWHY_DATA")
    return folder
