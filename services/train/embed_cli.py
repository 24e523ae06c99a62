"""The verb `embed`: vectors of a FASTA file of any size, here, in a Slurm array, or on a Ray cluster."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from services.train.cli_tools import add_output_options
from shared.errors import UsageError
from shared.progress import set_quiet


def add_embed(verbs: Any) -> None:
    """Add `embed`."""
    verb = verbs.add_parser("embed", help="embed a FASTA file of any size in shards; the same command resumes")
    verb.add_argument("--fasta", type=Path, required=True, help="plain, not compressed")
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="plan and shards; on a disk all share")
    verb.add_argument("--encoder", required=True, metavar="NAME", help="such as esm2_t33_650M")
    verb.add_argument("--weights", default="hub", help="folder, file, hub or random-init(SEED); default: hub")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    verb.add_argument("--window", type=int, default=1022)
    verb.add_argument("--overlap", type=int, default=0)
    verb.add_argument("--residues-per-shard", type=int, default=2_000_000, metavar="N")
    verb.add_argument("--engine", choices=("local", "ray"), default="local")
    verb.add_argument("--shard", metavar="I/N", help="every N-th shard from the I-th on, I from 0; for job arrays")
    verb.add_argument("--device", default="auto")
    verb.add_argument("--threads", type=int, default=2)
    verb.add_argument("--ray-address", metavar="HOST:PORT", help="of a running cluster; default: start one here")
    verb.add_argument("--actors", type=int, help="default: one per GPU, or the cluster's CPUs less one")
    verb.add_argument("--gpus-per-actor", type=float, default=0.0, metavar="N")
    verb.add_argument("--stall-seconds", type=float, default=3600.0, metavar="S", help="then actors are replaced")
    add_output_options(verb)
    verb.set_defaults(command=embed)


def embed(arguments: argparse.Namespace) -> int:
    """`embed`: exit 0 when this part is done; `result.json` is there when all parts are."""
    from services.train.cli import fix_threads  # noqa: PLC0415 - cli imports this file

    fix_threads(arguments.threads)
    set_quiet(arguments.quiet)
    import torch  # noqa: PLC0415 - after the thread count is fixed

    from services.train import shards  # noqa: PLC0415
    from services.train.shards_ray import Pool, run_ray  # noqa: PLC0415
    from shared.config.embed import EncoderConfig  # noqa: PLC0415

    torch.set_num_threads(arguments.threads)
    if arguments.residues_per_shard < 1:
        raise UsageError("--residues-per-shard must be at least 1")
    try:
        part = shards.parse_part(arguments.shard or "0/1")
    except ValueError as error:
        raise UsageError(f"--shard {arguments.shard}: give I/N with 0 <= I < N, such as 0/8") from error
    config = EncoderConfig(
        name=arguments.encoder,
        weights=arguments.weights,
        dtype=arguments.dtype,
        window=arguments.window,
        overlap=arguments.overlap,
    )
    spec = shards.EncoderSpec(config, arguments.device)
    encoder = spec.load()
    plan = shards.make_plan(arguments.out.resolve(), arguments.fasta.resolve(), encoder, arguments.residues_per_shard)
    if arguments.engine == "ray":
        del encoder  # the actors load their own
        pool = Pool(
            actors=arguments.actors,
            gpus=arguments.gpus_per_actor,
            stall_s=arguments.stall_seconds,
            address=arguments.ray_address,
        )
        done = run_ray(plan, spec, pool, part)
    else:
        done = shards.run_local(plan, encoder, part)
    complete = shards.finish(plan)
    result = {"embedded": done, "missing": len(plan.missing()), "shards": len(plan), "complete": complete}
    if arguments.json:
        print(json.dumps(result))
    elif not arguments.quiet:
        state = f"complete: {arguments.out / shards.RESULT}" if complete else f"{result['missing']} still missing"
        print(f"{done} of {len(plan)} shards embedded, {state}")
    return 0
