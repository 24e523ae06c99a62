"""`python -m services.train VERB ...`; see `--help`."""

from __future__ import annotations

from services.train.cli import build_parser
from shared.edge import main

if __name__ == "__main__":
    raise SystemExit(main(build_parser()))
