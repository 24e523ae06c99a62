"""The verb `pretrain`: a small sequence encoder by masked-language modelling, resumable."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from services.train.cli_tools import add_output_options
from shared.config.load import load_config
from shared.progress import set_quiet


def add_pretrain(verbs: Any) -> None:
    """Add `pretrain`."""
    verb = verbs.add_parser("pretrain", help="train a small ESM-2 on a FASTA's sequences; the same command resumes")
    verb.add_argument("--fasta", type=Path, required=True, action="append", help="may be given more than once")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="the encoder, its card and its record")
    verb.add_argument("--config", type=Path, help="YAML or JSON with a section pretrain; see configs/models/")
    verb.add_argument(
        "--set", action="append", default=[], metavar="pretrain.B=C", dest="sets", help="override one key"
    )
    verb.add_argument("--device", default="auto")
    verb.add_argument("--threads", type=int, default=2)
    add_output_options(verb)
    verb.set_defaults(command=pretrain)


def pretrain(arguments: argparse.Namespace) -> int:
    """`pretrain`: exit 0 when the encoder is there."""
    from services.train.cli import fix_threads  # noqa: PLC0415 - cli imports this file

    config = load_config(arguments.config, environment=os.environ, sets=arguments.sets).config.pretrain
    fix_threads(arguments.threads)
    set_quiet(arguments.quiet)
    from services.train import pretraining  # noqa: PLC0415 - after the thread count is fixed
    from shared.nn.device import resolve_device  # noqa: PLC0415

    out = arguments.out.resolve()
    record = pretraining.pretrain(
        arguments.fasta, out, config, device=str(resolve_device(arguments.device)), threads=arguments.threads
    )
    if arguments.json:
        print(json.dumps({"out": str(out), **record}))
    elif not arguments.quiet:
        last = record["losses"][-1]
        print(f"{out / pretraining.MODEL}: {record['size_mb']:.1f} MB, loss {last['trained']:.3f} trained")
        print(f"use it: --set embed.esm2.name={config.encoder} --set embed.esm2.weights={out}")
    return 0
