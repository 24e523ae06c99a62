"""The command line of the worker. Numerical libraries are imported inside the verbs: `--help` stays quick."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from services.xai_worker.methods import METHODS, SECTIONS, TIERS
from shared import env
from shared.edge import Parser
from shared.errors import UsageError
from shared.progress import set_quiet

EXPORTS = (
    "json", "parquet", "gff3", "bed", "bedgraph", "uniprot", "nightingale", "chimerax", "pymol", "molviewspec", "svg",
    "png",
)  # fmt: skip


def build_parser() -> Parser:
    """The command line; every verb sets `command` to its function."""
    parser = Parser(prog="python -m services.xai_worker", description="Explain why GO terms were predicted.")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=Parser)
    _add_explain(verbs)
    _add_index(verbs)
    _add_serve(verbs)
    _add_submit(verbs)
    _add_token(verbs)
    _add_bench(verbs)
    return parser


def _add_explain(verbs: Any) -> None:
    verb = verbs.add_parser("explain", help="explain predictions of a complete run; prints the result folder")
    verb.add_argument(
        "--from-manifest", type=Path, required=True, metavar="MANIFEST", help="out/<run_id>/manifest.json"
    )
    verb.add_argument(
        "--protein", action="append", default=[], metavar="ACC", help="repeatable; default: the five best-scored"
    )
    verb.add_argument(
        "--term", action="append", default=[], metavar="GO:...", help="repeatable; default: each protein's three best"
    )
    verb.add_argument(
        "--proteins",
        type=Path,
        metavar="FILE",
        help="accessions of the run, one a line; or a FASTA of proteins that it has never seen",
    )
    verb.add_argument(
        "--terms", type=Path, metavar="FILE", help="lines GO:... (of every protein) or ACC<tab>GO:... (of that one)"
    )
    verb.add_argument("--top-k", type=int, metavar="N", help="best terms of each protein, where none is named (3)")
    verb.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: %(default)s)")
    verb.add_argument(
        "--structure",
        action="append",
        default=[],
        metavar="ACC=FILE",
        help="repeatable: colour this PDB or mmCIF file in the report and in the exports",
    )
    verb.add_argument(
        "--export",
        action="append",
        choices=(*EXPORTS, "none"),
        help="repeatable: formats below exports/; default: all",
    )
    verb.add_argument(
        "--tier", choices=tuple(TIERS), default="default", help="how much is computed (default: %(default)s)"
    )
    verb.add_argument(
        "--method",
        action="append",
        choices=METHODS,
        default=[],
        metavar="NAME",
        help=f"repeatable; default: those of the tier. One of {', '.join(METHODS)}",
    )
    verb.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="repeatable: cnn, mlp/esm2, mlp/t5, stacker, final; default: all",
    )
    verb.add_argument(
        "--window",
        action="append",
        type=int,
        metavar="N",
        help="residues that occlusion hides at once, odd; repeatable; default: 1",
    )
    verb.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="probability that a counterfactual has to fall below (default: %(default)s)",
    )
    verb.add_argument(
        "--scan-positions",
        type=int,
        default=10,
        metavar="N",
        help="positions of the exact mutation scan; 0: all (default: %(default)s)",
    )
    verb.add_argument("--limit", type=int, metavar="N", help="at most so many proteins")
    verb.add_argument(
        "--tolerance", type=float, default=0.01, help="accepted completeness error (default: %(default)s)"
    )
    verb.add_argument(
        "--max-steps", type=int, default=256, help="quadrature nodes before a result is flagged (default: %(default)s)"
    )
    verb.add_argument(
        "--sites",
        type=Path,
        metavar="FILE",
        help="TSV accession, term, position: measure the explanations against known sites",
    )
    verb.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    verb.add_argument("--threads", type=int, default=1, help="default: 1; single proteins are too small to share")
    verb.add_argument("--env-policy", choices=env.POLICIES, help="default: GOWHY_ENV_POLICY, else warn")
    verb.add_argument("--force", action="store_true", help="go on in spite of --env-policy strict; recorded")
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
    verb.add_argument("--quiet", action="store_true", help="no progress, only errors")
    verb.set_defaults(command=explain)


def _add_index(verbs: Any) -> None:
    verb = verbs.add_parser("index", help="one page over all explanations of a run; `explain` writes it, too")
    verb.add_argument(
        "--from-manifest", type=Path, required=True, metavar="MANIFEST", help="out/<run_id>/manifest.json"
    )
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
    verb.set_defaults(command=index)


def index(arguments: argparse.Namespace) -> int:
    """`index`: write out/<run_id>/xai/index.html."""
    from services.xai_worker.explain import XAI  # noqa: PLC0415 - see the module's docstring
    from services.xai_worker.run_index import write_run_index  # noqa: PLC0415

    page, jobs, explanations = write_run_index(arguments.from_manifest.parent / XAI)
    if arguments.json:
        print(json.dumps({"explanations": explanations, "jobs": jobs, "page": str(page)}))
    else:
        print(page)
    return 0


def _add_serve(verbs: Any) -> None:
    verb = verbs.add_parser("serve", help="the service: HTTP, the queue and its workers; settings: GOWHY_XAI_*")
    verb.add_argument("--out", type=Path, metavar="DIR", help="the volume shared with train (default: out)")
    verb.add_argument("--host", help="beyond loopback only with a token (default: 127.0.0.1)")
    verb.add_argument("--port", type=int, help="0: a free one (default: 8080)")
    verb.add_argument(
        "--database-url", metavar="URL", help="sqlite:///FILE, or postgresql://... (default: a file in ~/.local/state)"
    )
    verb.add_argument("--concurrency", type=int, metavar="N", help="jobs that one worker runs at once (default: 1)")
    verb.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes; more than 1 on Postgres")
    verb.add_argument("--role", choices=("all", "api", "worker"), default="all", help="one part alone, for many hosts")
    for internal, kind in (("--descriptor", int), ("--pulse", int)):
        verb.add_argument(internal, type=kind, help=argparse.SUPPRESS)
    verb.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    verb.set_defaults(command=serve)


def serve(arguments: argparse.Namespace) -> int:
    """`serve`: run until SIGTERM."""
    # Here as well as in each job: a service whose every job would fail must not start.
    _, message = env.enforce(env.chosen_policy(None))
    if message:
        print(f"warning: {message}", file=sys.stderr)
    from services.xai_worker.serve import serve as run  # noqa: PLC0415

    return run(arguments)


def _add_submit(verbs: Any) -> None:
    verb = verbs.add_parser(
        "submit",
        help="send a run to a running service; prints the job",
        description="The token is taken from GOWHY_XAI_TOKEN or the file GOWHY_XAI_TOKEN_FILE.",
    )
    verb.add_argument("manifest", type=Path, metavar="MANIFEST", help="out/<run_id>/manifest.json")
    verb.add_argument("--wait", action="store_true", help="follow the job to its end; the exit code says how it ended")
    verb.add_argument("--once", action="store_true", help="the job of an earlier equal submission, where there is one")
    verb.add_argument("--url", default=None, help="default: GOWHY_XAI_URL, else http://127.0.0.1:8080")
    verb.add_argument(
        "--serve", action="store_true", help="start a service for this one job, wait for it, and stop the service"
    )
    verb.add_argument(
        "--protein", action="append", default=[], metavar="ACC", help="repeatable; default: the five best"
    )
    verb.add_argument("--term", action="append", default=[], metavar="GO:...", help="repeatable")
    verb.add_argument("--top-k", type=int, metavar="N", help="best terms of each protein, where none is named")
    verb.add_argument("--method", action="append", choices=METHODS, help="repeatable; default: all")
    verb.add_argument("--model", action="append", default=[], metavar="NAME", help="repeatable; default: all")
    verb.add_argument("--window", action="append", type=int, metavar="N", help="as for explain")
    verb.add_argument("--limit", type=int, metavar="N", help="at most so many proteins")
    verb.add_argument("--seed", type=int, metavar="N", help="of methods that draw at random")
    verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
    verb.add_argument("--quiet", action="store_true", help="no progress, only errors")
    verb.set_defaults(command=submit)


def _add_token(verbs: Any) -> None:
    verb = verbs.add_parser("token", help="make a bearer token; its line for GOWHY_XAI_TOKENS_FILE goes to stdout")
    verb.add_argument("name", metavar="NAME", help="owns the jobs; two tokens may share it while one is exchanged")
    verb.add_argument(
        "--scope", action="append", choices=("submit", "read", "cancel", "admin"), help="default: the first three"
    )
    verb.add_argument("--days", type=int, metavar="N", help="valid for so long; default: for ever")
    verb.set_defaults(command=token)


def submit(arguments: argparse.Namespace) -> int:
    """`submit`: see `services.xai_worker.client`."""
    from services.xai_worker import client  # noqa: PLC0415 - see the module's docstring

    return client.submit(arguments)


def token(arguments: argparse.Namespace) -> int:
    """`token`: the line for the token file on stdout, the token itself, once, on stderr."""
    from services.xai_worker.http.tokens import expires_in, new_token  # noqa: PLC0415

    plain, made = new_token(arguments.name, arguments.scope or ("submit", "read", "cancel"), expires_in(arguments.days))
    print(made.line())
    print(f"token of {made.name}, shown only now: {plain}", file=sys.stderr)
    return 0


def _add_bench(verbs: Any) -> None:
    verb = verbs.add_parser("bench", help="measure a model release's explanations; ends with PASS or FAIL, exit code 1")
    verb.add_argument("--from-manifest", type=Path, metavar="MANIFEST", help="the release, out/<run_id>/manifest.json")
    verb.add_argument("--out", type=Path, default=Path("out/bench"), metavar="FOLDER", help="default: %(default)s")
    verb.add_argument("--planted", type=Path, metavar="FOLDER", help="runs on generated proteins; see make xai-bench")
    verb.add_argument("--section", action="append", choices=SECTIONS, default=[], help="repeatable; default: all")
    verb.add_argument("--limit", type=int, metavar="N", help="a quick look: at most N items per cell")
    verb.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar="RESULT",
        help="compare two result folders byte by byte instead; another model is refused",
    )
    verb.add_argument("--quiet", action="store_true", help="no progress, only errors")
    verb.set_defaults(command=bench)


def bench(arguments: argparse.Namespace) -> int:
    """`bench`: 0 if every measured gate passed, else 1."""
    set_quiet(arguments.quiet)
    if arguments.compare:
        from services.xai_worker.bench.regression import compare  # noqa: PLC0415 - see the module's docstring

        print(f"{compare(*arguments.compare)} explanations are equal")
        return 0
    if arguments.from_manifest is None:
        raise UsageError("no release to measure", remedy="Give --from-manifest, or --compare and two result folders")
    from services.xai_worker.bench.command import run  # noqa: PLC0415

    data = os.environ.get("GOWHY_DATA")
    passed, line = run(
        arguments.from_manifest,
        arguments.out,
        planted=arguments.planted,
        residues=None if data is None else Path(data) / "residues",
        only=arguments.section,
        limit=arguments.limit,
    )
    print(line)
    return 0 if passed else 1


def explain(arguments: argparse.Namespace) -> int:
    """`explain`: make the result folder, or find the complete one of an equal request."""
    set_quiet(arguments.quiet)
    env_lock, message = env.enforce(env.chosen_policy(arguments.env_policy), force=arguments.force)
    if message and not arguments.quiet:
        print(f"warning: {message}", file=sys.stderr)
    from services.xai_worker.explain import Machine, Options, explain_manifest  # noqa: PLC0415 - see the docstring
    from services.xai_worker.request import request_of  # noqa: PLC0415
    from services.xai_worker.run_index import write_run_index  # noqa: PLC0415
    from services.xai_worker.wanted import read_wanted_proteins, read_wanted_terms  # noqa: PLC0415

    proteins = None if arguments.proteins is None else read_wanted_proteins(arguments.proteins)
    terms = None if arguments.terms is None else read_wanted_terms(arguments.terms)
    if proteins is not None and proteins.records is not None and arguments.protein:
        raise UsageError("--protein names proteins of the run, --proteins a FASTA file", remedy="Give one of them")
    if arguments.jobs < 1:
        raise UsageError(f"--jobs {arguments.jobs}: at least one process is needed", remedy="Leave --jobs out")
    request = request_of(
        proteins=(*arguments.protein, *(proteins.accessions if proteins else ())),
        terms=(*arguments.term, *(terms.terms if terms else ())),
        pairs=terms.pairs if terms else (),
        top_k=arguments.top_k,
        tier=arguments.tier,
        methods=arguments.method,
        threshold=arguments.threshold,
        scan_positions=arguments.scan_positions,
        models=arguments.model,
        windows=arguments.window or (1,),
        limit=arguments.limit,
        tolerance=arguments.tolerance,
        max_steps=arguments.max_steps,
    )
    machine = Machine(env_lock, arguments.device, arguments.threads, quiet=arguments.quiet)
    options = Options(
        exports=tuple(name for name in arguments.export or EXPORTS if name != "none"),
        structures=_structures(arguments.structure),
        fasta=arguments.proteins if proteins is not None and proteins.records is not None else None,
        jobs=arguments.jobs,
    )
    outcome = explain_manifest(arguments.from_manifest, request, machine, sites=arguments.sites, options=options)
    write_run_index(outcome.folder.parent)
    if arguments.json:
        print(json.dumps({"folder": str(outcome.folder), "reused": outcome.reused, **outcome.result}, sort_keys=True))
    else:
        print(outcome.folder)
        if outcome.localisation:
            print(f"localisation: {outcome.localisation}")
    return 0


def _structures(given: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in given:
        protein, separator, file = text.partition("=")
        if not separator or not protein or not file:
            raise UsageError(f"not ACC=FILE: {text!r}", where="--structure", remedy="Such as P69441=AF-P69441.cif")
        found[protein] = Path(file)
    return found
