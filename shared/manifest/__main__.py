"""`python -m shared.manifest validate PATH`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from shared.edge import Parser, main
from shared.manifest import load_manifest


def validate(arguments: argparse.Namespace) -> int:
    """Check a manifest and every file it names."""
    manifest = load_manifest(arguments.path, complete=False)
    count = len(manifest.outputs())
    if arguments.json:
        print(json.dumps({"valid": True, "run_id": manifest.run_id, "status": manifest.status, "files": count}))
    elif not arguments.quiet:
        print(f"{arguments.path}: valid, {manifest.status}, {count} files match their sha256")
    return 0


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m shared.manifest", description="Check a run's manifest.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    verb = verbs.add_parser("validate", help="check schema, paths and the sha256 of every file")
    verb.add_argument("path", type=Path)
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
    verb.add_argument("--quiet", action="store_true", help="only errors")
    verb.set_defaults(command=validate)
    return parser


if __name__ == "__main__":
    raise SystemExit(main(build_parser()))
