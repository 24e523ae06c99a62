"""The verbs around a run: plan, quality, diagnose, convert, cache gc, and `store publish`.

As in `cli.py`, heavy imports happen inside the verbs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from shared.config.files import preset_names
from shared.errors import MissingInput, UsageError
from shared.progress import set_quiet

OUT = Path("out")
DEFAULT_LICENSE = "apache-2.0"


def add_output_options(verb: argparse.ArgumentParser) -> None:
    """`--json` and `--quiet`, as every verb with output has them."""
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
    verb.add_argument("--quiet", action="store_true", help="no progress, only errors")


def add_publish(verbs: Any) -> None:
    """Add `publish`; it is one of the verbs of `store`."""
    verb = verbs.add_parser("publish", help="send a finished run's model and its card to the Hugging Face Hub")
    verb.add_argument("--manifest", type=Path, required=True, help="manifest.json of a complete run")
    verb.add_argument("--repo", required=True, metavar="OWNER/NAME")
    verb.add_argument("--public", action="store_true", help="everyone may have it; default: private")
    verb.add_argument("--license", default=DEFAULT_LICENSE, metavar="ID", help=f"of the weights ({DEFAULT_LICENSE})")
    verb.add_argument("--dry-run", action="store_true", help="print the card and the files, send nothing")
    add_output_options(verb)
    verb.set_defaults(command=publish)


def publish(arguments: argparse.Namespace) -> int:
    """`store publish`."""
    from services.train import publish as publishing  # noqa: PLC0415

    done = publishing.publish(
        arguments.manifest,
        arguments.repo,
        private=not arguments.public,
        license_id=arguments.license,
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        print(json.dumps(dataclasses.asdict(done)))
    elif arguments.dry_run:
        print(done.card)
        for name, size in done.files.items():
            print(f"{name}  {size} bytes")
    elif not arguments.quiet:
        print(f"{'published' if done.changed else 'unchanged'}: {done.url}")
    return 0


def add_diagnose(verbs: Any) -> None:
    """Add `diagnose`."""
    verb = verbs.add_parser("diagnose", help="draw file sizes, row counts and stage times of a run or a store")
    source = verb.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", type=Path, help="a run's manifest.json, finished or not")
    source.add_argument("--store", metavar="URL", help="the newest run in it")
    verb.add_argument("--out", type=Path, default=OUT, help="paths.out: where local:// and the cache are (out)")
    verb.add_argument("--to", type=Path, metavar="DIR", help="default: diagnostics/ beside the manifest or under --out")
    add_output_options(verb)
    verb.set_defaults(command=diagnose)


def diagnose(arguments: argparse.Namespace) -> int:
    """`diagnose`: exit 0 also where rows disagree; the page and the JSON say so."""
    from services.train import diagnostics  # noqa: PLC0415
    from services.train.diagnostics_page import write_page  # noqa: PLC0415
    from shared.stores import open_store  # noqa: PLC0415

    store = open_store(arguments.store, arguments.out / "cache") if arguments.store else None
    found = diagnostics.diagnose(manifest=arguments.manifest, store=store)
    folder = arguments.to or (arguments.manifest.parent if arguments.manifest else arguments.out) / "diagnostics"
    written = write_page(found, folder)
    if arguments.json:
        print(json.dumps({**found.to_json(), "written": [str(path) for path in written]}))
    elif not arguments.quiet:
        wrong = f"{len(found.failed())} of {len(found.rows)} row counts disagree"
        print(f"{found.source}: {len(found.files)} files, {found.total_bytes} bytes, {wrong}")
        print(f"page: {written[-1]}")
    return 0


def add_cache(verbs: Any) -> None:
    """Add `cache gc`."""
    cache = verbs.add_parser("cache", help="the cache of embeddings, searches, texts and generated data")
    actions = cache.add_subparsers(dest="action", required=True, parser_class=type(cache))
    verb = actions.add_parser("gc", help="remove what was not used for long; never an input of a run")
    verb.add_argument("--out", type=Path, default=OUT, help="paths.out (out)")
    verb.add_argument("--older-than", metavar="AGE", help="not used for so long, as 30d or 12h; default 30d")
    verb.add_argument("--max-size", metavar="SIZE", help="then the longest unused until the rest fits, as 20GB")
    verb.add_argument("--dry-run", action="store_true", help="only say what would go")
    add_output_options(verb)
    verb.set_defaults(command=cache_gc)


def cache_gc(arguments: argparse.Namespace) -> int:
    """`cache gc`."""
    from services.train import cache  # noqa: PLC0415

    age = arguments.older_than or (None if arguments.max_size else "30d")
    folder = arguments.out / "cache"
    done = cache.trim(
        folder,
        max_age_s=None if age is None else cache.parse_age(age),
        max_bytes=None if arguments.max_size is None else cache.parse_size(arguments.max_size),
        dry_run=arguments.dry_run,
    )
    found = done.to_json(folder)
    if arguments.json:
        print(json.dumps(found))
    elif not arguments.quiet:
        for entry in found["removed"]:
            print(f"{'would remove' if done.dry_run else 'removed'} {entry['entry']}  {entry['bytes']} bytes")
        print(f"{found['removed_bytes']} bytes of {found['removed_bytes'] + found['kept_bytes']}, {folder}")
    return 0


def add_convert(verbs: Any) -> None:
    """Add `convert`."""
    verb = verbs.add_parser("convert", help="turn an old pickled model into a bundle that loads without pickle")
    verb.add_argument(
        "source", type=Path, help=".pkl, .pkl.gz, or written by torch.save; docs/artifacts.md has the layout"
    )
    verb.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty")
    verb.add_argument("--allow-legacy-pickle", action="store_true", help="open it; only data is rebuilt from it")
    add_output_options(verb)
    verb.set_defaults(command=convert)


def convert(arguments: argparse.Namespace) -> int:
    """`convert`: exit 0 also where parts are missing; the answer says so."""
    from services.train import convert as converting  # noqa: PLC0415

    if arguments.allow_legacy_pickle:
        print(f"warning: {arguments.source} is a pickle; open only what you trust", file=sys.stderr)
    done = converting.convert(arguments.source, arguments.out, allow_legacy_pickle=arguments.allow_legacy_pickle)
    if done.problem:
        print(f"warning: not a complete bundle: {done.problem}", file=sys.stderr)
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(done), "out": str(done.out)}))
    elif not arguments.quiet:
        print(f"{done.out}: {len(done.files)} files{', loads as a model' if done.loadable else ''}")
    return 0


def plan(arguments: argparse.Namespace) -> int:
    """`plan`: time, memory and disk of every stage, scaled from finished runs; exit 78 where it cannot work."""
    from services.train import planning  # noqa: PLC0415
    from services.train.data import dataset_defaults  # noqa: PLC0415
    from shared.config.load import load_config  # noqa: PLC0415

    counted = arguments.train_proteins is None or arguments.test_proteins is None
    config = load_config(
        arguments.config,
        environment=os.environ,
        preset=arguments.preset,
        sets=arguments.sets,
        datasets=dataset_defaults if counted else None,  # numbers need no files
    ).config
    workload = planning.workload_of(
        config, train=arguments.train_proteins, test=arguments.test_proteins, residues=arguments.mean_residues
    )
    folders = arguments.measured or [config.paths.out]
    runs = [run for folder in folders for run in planning.measured_runs(folder)]
    if not runs:
        raise MissingInput(
            "no finished run says what a stage costs on this machine",
            where=", ".join(map(str, folders)),
            remedy="Run `make train_and_xai`, or better a few thousand proteins, then plan again",
        )
    found = planning.estimates(workload, runs)
    document = planning.document(workload, found)
    print(json.dumps(document) if arguments.json else planning.table(workload, found))
    memory, disk = planning.machine(config.paths.out)
    planning.check(found, memory=arguments.memory_gib * (1 << 30) if arguments.memory_gib else memory, disk=disk)
    return 0


def add_plan(verbs: Any) -> None:
    """Add `plan`."""
    verb = verbs.add_parser(
        "plan", help="estimate time, memory and disk of a config from finished runs; starts nothing"
    )
    verb.add_argument("--config", type=Path, help="YAML or JSON; see configs/")
    verb.add_argument("--preset", choices=preset_names(), help="laid over the config; configs/presets/")
    verb.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="sets", help="override one key")
    verb.add_argument("--train-proteins", type=int, metavar="N", help="instead of counting data.train_fasta")
    verb.add_argument("--test-proteins", type=int, metavar="N", help="instead of counting data.test_fasta")
    verb.add_argument("--mean-residues", type=float, metavar="L", help="instead of measuring the files")
    verb.add_argument(
        "--measured", type=Path, action="append", metavar="OUT", help="folder of runs; default: paths.out"
    )
    verb.add_argument("--memory-gib", type=float, metavar="G", help="of the machine it is for; default: this one's")
    add_output_options(verb)
    verb.set_defaults(command=plan)


def add_quality(verbs: Any) -> None:
    """`quality`: tables, intervals and groups of a finished run."""
    verb = verbs.add_parser("quality", help="write the quality page of a complete run: tables, intervals, groups")
    verb.add_argument("--from-manifest", type=Path, required=True, metavar="MANIFEST")
    verb.add_argument(
        "--baseline",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="predictions of the test proteins to compare with; repeatable",
    )
    verb.add_argument(
        "--ablation", action="append", default=[], metavar="NAME=MANIFEST", help="a run without a modality"
    )
    verb.add_argument("--replicates", type=int, default=1000, help="of the bootstrap (default: %(default)s)")
    add_output_options(verb)
    verb.set_defaults(command=quality)


def quality(arguments: argparse.Namespace) -> int:
    """`quality`: measure a run on its held-out proteins and write the page."""
    set_quiet(arguments.quiet)
    from services.train.quality.page import DOCUMENT, write_page  # noqa: PLC0415 - numba takes a second to load
    from services.train.quality.run import quality_document  # noqa: PLC0415

    baselines, ablations = (named_files(pairs) for pairs in (arguments.baseline, arguments.ablation))
    document = quality_document(arguments.from_manifest, baselines, ablations, arguments.replicates)
    run_folder = arguments.from_manifest.parent
    page = write_page(run_folder / "quality", run_folder, document)
    print(json.dumps(document) if arguments.json else f"{page}\n{page.with_name(DOCUMENT)}")
    return 0


def named_files(pairs: list[str]) -> dict[str, Path]:
    """NAME=FILE arguments.

    Raises:
        UsageError: one has no name.
    """
    found = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or not name or not path:
            raise UsageError(f"expected NAME=FILE, found {pair!r}")
        found[name] = Path(path)
    return found
