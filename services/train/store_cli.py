"""`python -m services.train store ...`: the checkpoint store from the command line.

Exit codes: 0 done, or nothing differs; 1 `status` or `diff` found a difference; 80 `verify` found damage, or
`repair` could not mend all; else see ARCHITECTURE.md.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.train.cli_tools import add_publish
from shared.atomic import write_json
from shared.checkpoint import CHECKPOINTS, Checkpoint, checkpoint_path, parse_checkpoint
from shared.config.load import load_config
from shared.edge import Parser
from shared.errors import MissingInput, UsageError
from shared.progress import set_quiet
from shared.stores import ContentStore, open_store

DIFFERENT = 1
DAMAGED = 80

Arguments = argparse.Namespace


def add_store(verbs: Any) -> None:
    """Register `store` and its verbs."""
    group = verbs.add_parser("store", help="push, pull and look after checkpoints")
    own = group.add_subparsers(dest="store_verb", required=True, parser_class=Parser)
    for name, (add, command, text) in VERBS.items():
        verb = own.add_parser(name, help=text, description=text)
        verb.add_argument("--store", metavar="URL", help="default: store.url of the config")
        verb.add_argument("--config", type=Path, help="YAML or JSON; its store and paths sections are used")
        verb.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="sets")
        verb.add_argument("--json", action="store_true", help="one JSON object on stdout")
        verb.add_argument("--quiet", action="store_true", help="no progress, only errors")
        add(verb)
        verb.set_defaults(command=command)
    add_publish(own)


def open_from(arguments: Arguments) -> ContentStore:
    """The store that the command line means."""
    set_quiet(arguments.quiet)
    sets = [*arguments.sets, *([f"store.url={arguments.store}"] if arguments.store else [])]
    config = load_config(arguments.config, environment=os.environ, sets=sets).config
    return open_store(config.store.url, config.paths.out / "cache", config.store)


def local_checkpoints(run_folder: Path) -> dict[str, Checkpoint]:
    """The checkpoints in a run folder, by stage.

    Raises:
        MissingInput: there are none.
    """
    files = sorted((run_folder / CHECKPOINTS).glob("*.json"))
    if not files:
        raise MissingInput("no checkpoints", where=str(run_folder), remedy="Name a run folder with --run out/<run id>")
    found = (parse_checkpoint(path.read_bytes(), where=str(path)) for path in files)
    return {checkpoint.stage: checkpoint for checkpoint in found}


def chosen(found: dict[str, Checkpoint], stages: list[str] | None) -> dict[str, Checkpoint]:
    """The stages asked for, by default all; a stage may be named by its beginning, like `stage_05`."""
    if not stages:
        return found
    result: dict[str, Checkpoint] = {}
    for name in stages:
        matches = {stage: checkpoint for stage, checkpoint in found.items() if stage.startswith(name)}
        if not matches:
            raise MissingInput(f"no checkpoint of {name!r}", remedy=f"There are: {', '.join(found) or 'none'}")
        result.update(matches)
    return dict(sorted(result.items()))


def show(arguments: Arguments, report: Any, lines: list[str]) -> None:
    """The report as JSON, or as lines for a person."""
    if arguments.json:
        print(json.dumps(report))
    elif not arguments.quiet:
        print("\n".join(lines))


def _run_argument(verb: argparse.ArgumentParser, required: bool = True) -> None:
    verb.add_argument("--run", type=Path, required=required, metavar="DIR", help="a run folder, out/<run id>")


def _stage_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--stage", action="append", metavar="STAGE", help="only this one; may be given again")
    verb.add_argument("--dry-run", action="store_true", help="say what would move, and move nothing")


def _add_push(verb: argparse.ArgumentParser) -> None:
    _run_argument(verb)
    _stage_arguments(verb)


def push(arguments: Arguments) -> int:
    """Store the checkpoints of a run folder; what the store has is not sent."""
    store, report = open_from(arguments), []
    for stage, checkpoint in chosen(local_checkpoints(arguments.run), arguments.stage).items():
        if arguments.dry_run:
            manifest = store.state().manifest
            sources = store.missing(checkpoint, arguments.run, manifest)
            size = sum(source.size for source in sources)
            one: dict[str, Any] = {
                "objects": len(sources),
                "bytes": size,
                "published": not store.has(manifest, checkpoint),
            }
        else:
            done = store.push(checkpoint, arguments.run)
            one = {"objects": done.objects, "bytes": done.bytes, "published": done.published, "version": done.version}
        report.append({"stage": stage, **one})
    lines = [f"{one['stage']:<30} {one['objects']:>4} objects {one['bytes']:>14} bytes" for one in report]
    show(arguments, {"store": store.url, "dry_run": arguments.dry_run, "stages": report}, lines)
    return 0


def _add_pull(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--into", type=Path, required=True, metavar="DIR", help="a run folder, out/<run id>")
    verb.add_argument("--version", metavar="V", help="pin; see `store log`")
    _stage_arguments(verb)


def pull(arguments: Arguments) -> int:
    """Bring the newest checkpoint of each stage into a run folder, where `run` finds them."""
    store, report = open_from(arguments), []
    state = store.state(version=arguments.version)
    for stage, checkpoint in chosen(state.manifest.current(store.url), arguments.stage).items():
        unlike = {o.sha256: o.size for o in checkpoint.outputs if not o.matches(arguments.into)}
        if not arguments.dry_run:
            store.fetch(state.manifest, checkpoint.outputs, arguments.into, what=f"pull {stage}")
            write_json(checkpoint_path(arguments.into, stage), checkpoint.to_json())
        report.append({"stage": stage, "objects": len(unlike), "bytes": sum(unlike.values())})
    lines = [f"{one['stage']:<30} {one['objects']:>4} objects {one['bytes']:>14} bytes" for one in report]
    result = {"store": store.url, "version": state.version, "dry_run": arguments.dry_run, "stages": report}
    show(arguments, result, lines or ["the store is empty"])
    return 0


def _add_status(verb: argparse.ArgumentParser) -> None:
    _run_argument(verb, required=False)


def status(arguments: Arguments) -> int:
    """Say what the store has; with --run, how a run folder compares (exit 1 when it differs)."""
    from shared.stores import upkeep  # noqa: PLC0415 - keeps --help quick

    store = open_from(arguments)
    manifest = store.state().manifest
    current = manifest.current(store.url)
    report: dict[str, Any] = {
        **store.describe(),
        "checkpoints": len(manifest.entries),
        "objects": len(manifest.objects),
        "bytes": sum(location.size for location in manifest.objects.values()),
        "stages": {stage: checkpoint.finished for stage, checkpoint in current.items()},
    }
    lines = [f"{store.url}: {report['checkpoints']} checkpoints, {report['objects']} objects, {report['bytes']} bytes"]
    lines += [f"{part}: {item['id']} version {item['version']}" for part, item in report["datasets"].items()]
    compared: dict[str, str] = {}
    if arguments.run is not None:
        compared = upkeep.compare(store, local_checkpoints(arguments.run), arguments.run)
        report["compared"] = compared
    lines += [
        f"{stage:<30} {compared.get(stage, current[stage].finished if stage in current else '')}"
        for stage in sorted({*current, *compared})
    ]
    show(arguments, report, lines)
    return 0 if all(word == "same" for word in compared.values()) else DIFFERENT


def _add_diff(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("old", help="a version, or a run folder")
    verb.add_argument("new", nargs="?", help="a version, or a run folder; by default the newest version")


def diff(arguments: Arguments) -> int:
    """Compare two versions, or a run folder with a version; exit 1 when they differ."""
    from shared.stores import upkeep  # noqa: PLC0415 - keeps --help quick

    store = open_from(arguments)

    def side(name: str | None) -> dict[str, Checkpoint]:
        if name is not None and (Path(name) / CHECKPOINTS).is_dir():
            return local_checkpoints(Path(name))
        return store.state(version=name).manifest.current(store.url)

    report = upkeep.diff(side(arguments.old), side(arguments.new))
    signs = {"added": "+", "removed": "-", "changed": "~"}
    lines = [
        f"{signs[kind]} {stage}: {path}" for stage, kinds in report.items() for kind in kinds for path in kinds[kind]
    ]
    show(arguments, report, lines or ["no difference"])
    return DIFFERENT if report else 0


def _add_verify(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--version", metavar="V", help="by default the newest")
    verb.add_argument("--depth", choices=("size", "digest", "bytes"), default="digest", help="default: digest")
    verb.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="of the objects, 0 to 1")


def verify(arguments: Arguments) -> int:
    """Check that every stored object is there, whole, and hashes to its name; exit 80 when one is not."""
    from shared.stores import upkeep  # noqa: PLC0415 - keeps --help quick

    if not 0 < arguments.sample <= 1:
        raise UsageError(f"--sample {arguments.sample} is not above 0 and at most 1")
    store = open_from(arguments)
    found = upkeep.verify(store, version=arguments.version, depth=arguments.depth, sample=arguments.sample)
    lines = [f"{problem}: {path} ({sha})" for sha, problem in found.problems.items() for path in found.paths[sha]]
    lines.append(f"{found.checked} objects, {found.bytes} bytes, {len(found.problems)} problems")
    show(arguments, vars(found), lines)
    return DAMAGED if found.problems else 0


def repair(arguments: Arguments) -> int:
    """Replace damaged and missing objects from a run folder; exit 80 when one has no intact file there."""
    from shared.stores import upkeep  # noqa: PLC0415 - keeps --help quick

    done = upkeep.repair(open_from(arguments), arguments.run)
    lines = [f"mended: {sha}" for sha in done.mended]
    lines += [f"not mended, no intact file: {path}" for paths in done.unmended.values() for path in paths]
    show(arguments, vars(done), lines or ["nothing to mend"])
    return DAMAGED if done.unmended else 0


def _add_gc(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--keep", type=int, metavar="N", help="checkpoints per stage, newest first; default: all")
    verb.add_argument(
        "--versions", type=int, default=10, metavar="N", help="that can be pinned afterwards; default: 10"
    )
    verb.add_argument("--grace-hours", type=float, default=24.0, help="younger objects stay; default: 24")
    verb.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")


def gc(arguments: Arguments) -> int:
    """Remove what no kept version names."""
    from shared.stores import upkeep  # noqa: PLC0415 - keeps --help quick

    done = upkeep.gc(
        open_from(arguments),
        keep=arguments.keep,
        versions=arguments.versions,
        grace_s=arguments.grace_hours * 3600,
        dry_run=arguments.dry_run,
    )
    lines = [f"{'would remove' if done.dry_run else 'removed'} {done.objects} objects, {done.bytes} bytes"]
    lines += [f"checkpoint {name}" for name in done.checkpoints]
    if not done.removable:
        lines.append("this backend keeps the files of every version; only records were dropped")
    show(arguments, vars(done), lines)
    return 0


def _add_freeze(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("folder", type=Path, help="where the plain files go")
    verb.add_argument("--version", metavar="V", help="by default the newest")
    verb.add_argument("--attach", action="store_true", help="also publish them as a version that a notebook can mount")


def freeze(arguments: Arguments) -> int:
    """Write the newest checkpoint of every stage as plain files, for a place without network."""
    from shared.stores import upkeep  # noqa: PLC0415 - keeps --help quick

    store = open_from(arguments)
    done = upkeep.freeze(store, arguments.folder, version=arguments.version)
    if arguments.attach:
        done["attached"] = upkeep.attach(store, arguments.folder)
    show(
        arguments, done, [f"{done['files']} files in {done['folder']}; read them with --store mount://{done['folder']}"]
    )
    return 0


def _add_log(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--limit", type=int, default=20, metavar="N")


def log(arguments: Arguments) -> int:
    """The newest versions, newest first."""
    from shared.stores import upkeep  # noqa: PLC0415 - keeps --help quick

    found = upkeep.log(open_from(arguments), arguments.limit)
    lines = [f"{one['version']}  {one['created_at']}  {one['kind']:<7} {one['message']}" for one in found]
    show(arguments, found, lines or ["the store is empty"])
    return 0


VERBS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[Arguments], int], str]] = {
    "push": (_add_push, push, "store a run's checkpoints"),
    "pull": (_add_pull, pull, "bring checkpoints into a run folder"),
    "status": (_add_status, status, "what the store has, and how a run compares; exit 1 when it differs"),
    "diff": (_add_diff, diff, "compare versions or run folders; exit 1 when they differ"),
    "verify": (_add_verify, verify, "check every stored object; exit 80 when one is damaged or missing"),
    "repair": (_run_argument, repair, "replace damaged and missing objects from a run folder"),
    "gc": (_add_gc, gc, "remove what nothing names any more"),
    "freeze": (_add_freeze, freeze, "write plain files for a place without network"),
    "log": (_add_log, log, "the store's versions"),
}
