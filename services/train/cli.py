"""The command line of train: run, status, predict, evaluate; the verbs around a run are in `cli_tools.py`.

Heavy imports happen inside the verbs, after the thread count is fixed, because numerical libraries
read it once, when they are loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.train.cli_tools import add_cache, add_convert, add_diagnose, add_output_options, add_plan, add_quality
from services.train.embed_cli import add_embed
from services.train.pretrain_cli import add_pretrain
from services.train.store_cli import add_store
from services.train.team import started_by_torchrun
from shared import env
from shared.atomic import write_json
from shared.config import Config
from shared.config.files import preset_names
from shared.config.load import LoadedConfig, load_config
from shared.edge import Parser, run_command
from shared.errors import UsageError
from shared.progress import set_quiet

REPOSITORY = Path(__file__).resolve().parents[2]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def build_parser() -> Parser:
    """The command line; every verb has `--json` and `--quiet` where there is output."""
    parser = Parser(prog="python -m services.train", description="Learn GO terms of proteins, and write a manifest.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    _add_run(verbs)
    _add_status(verbs)
    _add_predict(verbs)
    _add_evaluate(verbs)
    _add_sweep(verbs)
    add_plan(verbs)
    add_embed(verbs)
    add_pretrain(verbs)
    add_quality(verbs)
    add_diagnose(verbs)
    add_convert(verbs)
    add_cache(verbs)
    add_store(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; of the processes that torchrun starts only `run` makes use."""
    arguments = build_parser().parse_args(argv)
    if started_by_torchrun() > 1 and (arguments.verb != "run" or arguments.dry_run):
        arguments.command = _refuse_several
    return run_command(arguments.command, arguments)


def _refuse_several(arguments: argparse.Namespace) -> int:
    what = "run --dry-run" if arguments.verb == "run" else arguments.verb
    raise UsageError(f"torchrun started several processes, and {what} is for one", remedy="Start it with python")


def _add_config_options(verb: argparse.ArgumentParser) -> None:
    _add_base_options(verb)
    verb.add_argument("--overrides", type=Path, metavar="FILE.json", help="a sweep point, applied last")


def _add_base_options(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--config", type=Path, help="YAML or JSON; see configs/")
    verb.add_argument("--preset", choices=preset_names(), help="laid over the config; configs/presets/")
    verb.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="sets", help="override one key; null clears it"
    )
    verb.add_argument("--env-policy", choices=env.POLICIES, help="default: GOWHY_ENV_POLICY, else warn")
    verb.add_argument("--force", action="store_true", help="go on in spite of --env-policy strict; recorded")
    add_output_options(verb)


def _add_run(verbs: Any) -> None:
    verb = verbs.add_parser("run", help="bring a run up to date and write its manifest")
    _add_config_options(verb)
    verb.add_argument("--only", metavar="STAGE", help="bring this stage up to date; earlier ones must be")
    verb.add_argument("--from-stage", metavar="STAGE", help="run this stage and all later ones again")
    verb.add_argument("--dry-run", action="store_true", help="say what would run and why")
    verb.add_argument("--store", metavar="URL", help="short for --set store.url=URL")
    verb.set_defaults(command=run)


def _add_status(verbs: Any) -> None:
    verb = verbs.add_parser("status", help="say what is up to date; exit 0 when all is, else 1")
    _add_config_options(verb)
    verb.set_defaults(command=status)


def _add_sweep(verbs: Any) -> None:
    verb = verbs.add_parser("sweep", help="run a config at every point of a grid; the same command resumes")
    _add_base_options(verb)
    verb.add_argument(
        "--grid", action="append", default=[], metavar="A.B=V,W", help="a key and its values; all combinations are run"
    )
    verb.add_argument("--tag", metavar="NAME", help="folder under <paths.out>/sweeps; default: from config and grid")
    verb.add_argument("--dry-run", action="store_true", help="write the points, run none")
    verb.set_defaults(command=sweep)


def _add_predict(verbs: Any) -> None:
    verb = verbs.add_parser("predict", help="score proteins with a trained bundle")
    verb.add_argument("--model", type=Path, required=True, help="manifest.json, model_manifest.json or model.pth")
    verb.add_argument("--fasta", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True, help="TSV: protein, term, score")
    verb.add_argument("--text", type=Path, help="TSV: EntryID, text")
    verb.add_argument("--taxonomy", type=Path, help="TSV: accession, taxon id")
    verb.add_argument("--knn-correction", choices=("off", "low_conf_only", "all"), default="off")
    verb.add_argument("--reference", type=Path, help="KNN reference outside the bundle; --reference-sha256 says which")
    verb.add_argument("--reference-sha256", metavar="HEX")
    verb.add_argument("--device", default="auto")
    verb.add_argument("--threads", type=int, default=2)
    add_output_options(verb)
    verb.set_defaults(command=predict)


def _add_evaluate(verbs: Any) -> None:
    verb = verbs.add_parser("evaluate", help="Fmax, weighted Fmax, Smin, AUPR and coverage per aspect")
    verb.add_argument(
        "--from-manifest", type=Path, metavar="MANIFEST", help="score a run's submission against its test truth"
    )
    verb.add_argument("--pred", type=Path, help="TSV: protein, term, score")
    verb.add_argument("--truth", type=Path, help="TSV: protein, term[, aspect]")
    verb.add_argument("--obo", type=Path)
    verb.add_argument("--ia", type=Path, help="TSV: term, information accretion in bits")
    verb.add_argument("--propagation", choices=("fill", "max"), default="fill")
    add_output_options(verb)
    verb.set_defaults(command=evaluate)


def run(arguments: argparse.Namespace) -> int:
    """`run`: the nine stages, then the manifest."""
    sets = [*arguments.sets, *([f"store.url={arguments.store}"] if arguments.store else [])]
    env_lock, message = env.enforce(env.chosen_policy(arguments.env_policy), force=arguments.force)
    if message:
        print(f"warning: {message}", file=sys.stderr)
    with ExitStack() as held:
        loaded, config = prepare(arguments, sets, held)
        from services.train import processes, session  # noqa: PLC0415 - after the thread count is fixed

        job = session.Session(loaded, config, env_lock, REPOSITORY, quiet=arguments.quiet)
        if arguments.dry_run:
            return show_plan(job.plan(arguments.only, arguments.from_stage), as_json=arguments.json)
        team, device = held.enter_context(processes.assembled(config.device, config.level1.training.accumulate))
        job = replace(job, team=team, device=device)
        if not team.leads:
            job.follow()
            return 0
        write_configs(job.run_folder, loaded, config)
        result = job.run(arguments.only, arguments.from_stage)
    if arguments.json:
        print(json.dumps(result))
    elif not arguments.quiet:
        for name, value in result["where"].items():
            print(f"{name}: {value}")
    return 0


def status(arguments: argparse.Namespace) -> int:
    """`status`: exit 0 when every stage is up to date, else 1."""
    with ExitStack() as held:
        loaded, config = prepare(arguments, arguments.sets, held)
        env_lock, _ = env.enforce("ignore")
        from services.train import session  # noqa: PLC0415 - after the thread count is fixed

        steps = session.Session(loaded, config, env_lock, REPOSITORY, quiet=True).plan(None, None)
    show_plan(steps, as_json=arguments.json, quiet=arguments.quiet)
    return 0 if all(step["action"] == "skip" for step in steps) else 1


def sweep(arguments: argparse.Namespace) -> int:
    """`sweep`: exit 0 when every point ran, else the first failure's code."""
    from services.train import sweep as sweeping  # noqa: PLC0415
    from services.train.data import dataset_defaults  # noqa: PLC0415

    def load(point: Path | None) -> LoadedConfig:
        return load_config(
            arguments.config,
            environment=os.environ,
            preset=arguments.preset,
            sets=arguments.sets,
            overrides=point,
            datasets=dataset_defaults,
        )

    folder, points = sweeping.prepare(sweeping.parse_grid(arguments.grid), load, arguments.tag)
    if arguments.dry_run:
        results = []
    else:
        results = sweeping.run_all(folder, points, _run_command(arguments), load(None).config.paths.out)
    if arguments.json:
        planned = [{"values": point.values, "file": point.file.name, "run_id": point.run_id} for point in points]
        print(json.dumps({"folder": str(folder), "points": planned, "results": [r.to_json() for r in results]}))
    elif not arguments.quiet:
        print(sweeping.table(results) if results else "\n".join(f"{p.file}  {p.run_id}" for p in points))
    return next((result.exit_code for result in results if result.exit_code), 0)


def _run_command(arguments: argparse.Namespace) -> list[str]:
    """`run` with the options that a sweep passes on."""
    command = [sys.executable, "-m", "services.train", "run"]
    command += [] if arguments.config is None else ["--config", str(arguments.config)]
    command += [] if arguments.preset is None else ["--preset", arguments.preset]
    command += [part for item in arguments.sets for part in ("--set", item)]
    command += [] if arguments.env_policy is None else ["--env-policy", arguments.env_policy]
    return command + [name for name in ("--force", "--quiet") if getattr(arguments, name[2:])]


def predict(arguments: argparse.Namespace) -> int:
    """`predict`: score any FASTA with a bundle."""
    fix_threads(arguments.threads)
    set_quiet(arguments.quiet)
    from services.train import prediction  # noqa: PLC0415 - after the thread count is fixed

    result = prediction.predict_file(arguments)
    print(
        json.dumps(result)
        if arguments.json
        else f"{result['proteins']} proteins, {result['rows']} rows: {arguments.out}"
    )
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """`evaluate`: compare predictions with truth."""
    from services.train.evaluation import evaluate_files  # noqa: PLC0415 - numba takes a second to load

    if (arguments.from_manifest is None) == (arguments.pred is None):
        raise UsageError("give either --from-manifest, or --pred with --truth and --obo")
    if arguments.from_manifest is not None:
        from services.train.session import evaluation_inputs  # noqa: PLC0415

        files = evaluation_inputs(arguments.from_manifest)
    else:
        if arguments.truth is None or arguments.obo is None:
            raise UsageError("--pred needs --truth and --obo")
        files = arguments.pred, arguments.truth, arguments.obo, arguments.ia
    metrics = evaluate_files(*files, propagation=arguments.propagation)
    if arguments.json:
        print(json.dumps(metrics))
    else:
        for key, value in metrics.items():
            print(f"{key:<16} {value:.4f}" if isinstance(value, float) else f"{key:<16} {value}")
    return 0


def prepare(arguments: argparse.Namespace, sets: list[str], held: ExitStack) -> tuple[LoadedConfig, Config]:
    """Resolve the config, and fix the thread count before any numerical library is loaded.

    `held` keeps the cache from being trimmed from before a generated data set is looked for.
    """
    set_quiet(arguments.quiet)
    from services.train.cache import in_use  # noqa: PLC0415 - only the standard library
    from services.train.data import dataset_defaults  # noqa: PLC0415 - only numpy and the standard library

    def defaults(name: str, version: str, out: Path) -> Mapping[str, Path]:
        held.enter_context(in_use(out / "cache"))
        return dataset_defaults(name, version, out)

    loaded = load_config(
        arguments.config,
        environment=os.environ,
        preset=arguments.preset,
        sets=sets,
        overrides=arguments.overrides,
        datasets=defaults,
    )
    fix_threads(loaded.config.threads)
    return loaded, loaded.config


def fix_threads(count: int) -> None:
    """Fix the thread count of every numerical library: sums depend on it.

    Threads that wait for each other sleep: on a machine that also does other work, spinning makes small
    operators ten times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in THREAD_VARIABLES:
        os.environ[name] = str(count)


def write_configs(run_folder: Path, loaded: LoadedConfig, config: Config) -> None:
    """Keep what the user wrote and what it came to beside the run."""
    write_json(run_folder / "config_raw.json", loaded.raw)
    write_json(run_folder / "config_resolved.json", config.model_dump(mode="json"))


def show_plan(steps: list[dict[str, str]], *, as_json: bool, quiet: bool = False) -> int:
    """Print what would be done with each stage."""
    if as_json:
        print(json.dumps(steps))
    elif not quiet:
        for step in steps:
            print(f"{step['stage']:<30} {step['action']:<8} {step['reason']}")
    return 0
