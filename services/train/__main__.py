"""`python -m services.train VERB ...`; see `--help`."""

from __future__ import annotations

from services.train.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
