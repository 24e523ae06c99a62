"""`python -m services.xai_worker`."""

from __future__ import annotations

from services.xai_worker.cli import build_parser
from shared.edge import main

if __name__ == "__main__":
    raise SystemExit(main(build_parser()))
