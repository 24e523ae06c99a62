"""Look after a store: verify, repair, gc, freeze, log, diff, status.

Functions over a `ContentStore`; each returns a report that a person and a script can read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.atomic import write_bytes
from shared.checkpoint import Checkpoint, Output
from shared.errors import IntegrityError, NotPermitted, UsageError
from shared.stores.base import MANIFEST_NAME, Blob, MissingObject, Part
from shared.stores.commit import Change, commit, publish, upload_all
from shared.stores.engine import ContentStore, State
from shared.stores.inspection import Depth, problem_of
from shared.stores.manifest import StoreManifest
from shared.stores.packing import Package, Source
from shared.stores.snapshot import FILES, Snapshot
from shared.stores.transfer import hash_file, run_batch

GRACE_S = 24 * 3600.0


@dataclass
class Verification:
    """What `verify` looked at, and what it found: sha256 -> problem, and the artefacts each one is."""

    version: str | None
    checked: int = 0
    bytes: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    paths: dict[str, list[str]] = field(default_factory=dict)


def uses_of(manifest: StoreManifest, where: str) -> dict[str, list[tuple[Checkpoint, Output]]]:
    """sha256 -> every checkpoint and artefact that has that content."""
    uses: dict[str, list[tuple[Checkpoint, Output]]] = {}
    for checkpoint in manifest.checkpoints(where):
        for output in checkpoint.outputs:
            uses.setdefault(output.sha256, []).append((checkpoint, output))
    return uses


def verify(
    store: ContentStore, *, version: str | None = None, depth: Depth = "digest", sample: float = 1.0
) -> Verification:
    """Check that every object a version names is there, whole, and hashes to its name.

    Args:
        store: the store.
        version: by default the newest.
        depth: see `problem_of`; `bytes` reads everything.
        sample: the share of objects to look at, 0 to 1.
    """
    state = store.state(version=version)
    uses = uses_of(state.manifest, store.url)
    chosen = sorted(uses)
    if sample < 1.0:
        count = max(1, round(sample * len(chosen))) if chosen else 0
        chosen = sorted(random.sample(chosen, count))
    report = Verification(state.version)
    sizes = {sha: uses[sha][0][1].size for sha in chosen}

    def look(sha: str, meter: Any) -> None:
        problem = problem_of(store, sha, state.manifest.objects.get(sha), depth)
        if problem is not None:
            report.problems[sha] = problem
            report.paths[sha] = sorted({f"{c.stage}:{o.path}" for c, o in uses[sha]})
        meter(sizes[sha])

    run_batch("verify", sum(sizes.values()), store.config.parallel, look, chosen)
    report.checked, report.bytes = len(chosen), sum(sizes.values())
    store.damaged |= set(report.problems)
    return report


@dataclass
class Repair:
    """Objects that `repair` replaced, and those for which it found no intact file."""

    mended: list[str]
    unmended: dict[str, list[str]]
    version: str | None


def repair(store: ContentStore, root: Path, damaged: list[str] | None = None) -> Repair:
    """Replace damaged and missing objects from a run folder that has the right bytes.

    Args:
        store: the store.
        root: a run folder.
        damaged: sha256 of the objects; None verifies the whole store first.
    """
    bad = sorted(verify(store).problems) if damaged is None else damaged
    state = store.state()
    uses = uses_of(state.manifest, store.url)
    sources: dict[Part, list[Source]] = {"core": [], "embeddings": []}
    unmended: dict[str, list[str]] = {}
    for sha in bad:
        output = next((o for _, o in uses.get(sha, []) if o.matches(root)), None)
        if output is None:
            unmended[sha] = sorted({o.path for _, o in uses.get(sha, [])})
            continue
        location = state.manifest.objects.get(sha)
        sources[location.part if location is not None else "core"].append(Source(sha, output.size, root / output.path))
    store.damaged |= {source.sha256 for group in sources.values() for source in group}
    change = Change("repair", f"repair {sum(map(len, sources.values()))} objects")
    if sources["embeddings"]:
        publish(store, "embeddings", store.state("embeddings"), Change("repair", change.message), sources["embeddings"])
        there = store.state("embeddings")
        change.locations = {s.sha256: there.manifest.objects[s.sha256] for s in sources["embeddings"]}
        change.parts = {"embeddings": there.version or ""}
    version = state.version
    if any(sources.values()):
        version = publish(store, "core", state, change, sources["core"]).version
    return Repair(sorted(set(bad) - set(unmended)), unmended, version)


@dataclass
class Collection:
    """What `gc` removed, or would remove."""

    objects: int = 0
    bytes: int = 0
    checkpoints: list[str] = field(default_factory=list)
    removable: bool = True  # False: the backend keeps every version's files, only records were dropped
    dry_run: bool = False


def gc(
    store: ContentStore, *, keep: int | None = None, versions: int = 10, grace_s: float = GRACE_S, dry_run: bool = False
) -> Collection:
    """Remove what nothing refers to any more.

    An object stays while any of the newest `versions` manifests names it, and while it is younger than
    `grace_s`, because a push that is under way has not named its objects yet.

    Args:
        store: the store.
        keep: checkpoints to keep per stage, newest first; None keeps all.
        versions: how many versions, counted from the head, can be pinned afterwards.
        grace_s: seconds.
        dry_run: only say what would go.
    """
    report = Collection(dry_run=dry_run)
    state = store.state()
    dropped = superseded(state.manifest, keep)
    report.checkpoints = [f"{stage}/{fingerprint}" for stage, fingerprint in dropped]
    if not dry_run:
        _forget(store, set(dropped))
    history = [one for _, one in zip(range(max(1, versions)), walk(store), strict=False)]
    for part in ("core", "embeddings"):
        _sweep(store, part, history, grace_s, report)
    return report


def _forget(store: ContentStore, dropped: set[tuple[str, str]]) -> None:
    """Take checkpoints, and objects of which none is left, out of the manifests; the files go afterwards."""
    removable = store.transport().traits.removable
    used: set[str] = set()

    def edit_core(manifest: StoreManifest) -> None:
        manifest.entries = [entry for entry in manifest.entries if entry.key not in dropped]
        used.update(output.sha256 for c in manifest.checkpoints(store.url) for output in c.outputs)
        if removable:
            manifest.objects = {sha: where for sha, where in manifest.objects.items() if sha in used}

    def edit_part(manifest: StoreManifest) -> None:
        manifest.objects = {sha: where for sha, where in manifest.objects.items() if sha in used}

    core = store.state()
    trial = core.manifest.model_copy(deep=True)
    edit_core(trial)
    if trial != core.manifest:
        publish(store, "core", core, Change("gc", f"drop {len(dropped)} checkpoints", edit=edit_core), [])
    there = store.state("embeddings")
    if removable and not set(there.manifest.objects) <= used:
        publish(store, "embeddings", there, Change("gc", "drop what core does not name", edit=edit_part), [])


def superseded(manifest: StoreManifest, keep: int | None) -> list[tuple[str, str]]:
    """Checkpoints beyond the newest `keep` of their stage."""
    if keep is None:
        return []
    by_stage: dict[str, list[tuple[int, str]]] = {}
    for entry in manifest.entries:
        stage, fingerprint = entry.key
        by_stage.setdefault(stage, []).append((entry.seq, fingerprint))
    return [
        (stage, fingerprint)
        for stage, found in sorted(by_stage.items())
        for _, fingerprint in sorted(found, reverse=True)[max(1, keep) :]
    ]


def _sweep(store: ContentStore, part: Part, history: list[State], grace_s: float, report: Collection) -> None:
    transport = store.transport(part)
    if not transport.traits.removable:
        report.removable = False
        return
    named = {
        location.name for state in history for location in state.manifest.objects.values() if location.part == part
    }
    unnamed = [
        name
        for name, age_s in store.patience.call(lambda: list(transport.names()))
        if name not in named and age_s >= grace_s
    ]
    if not unnamed:
        return
    head = store.state(part).version or ""
    sizes = [store.patience.call(lambda name=name: transport.holds(head, name))[0] for name in unnamed]  # type: ignore[misc]
    report.objects += len(unnamed)
    report.bytes = report.bytes + sum(sizes)
    if not report.dry_run:
        store.patience.call(lambda: transport.remove(unnamed, head))


def walk(store: ContentStore) -> Iterator[State]:
    """Versions from the newest back, as far as they are kept."""
    state = store.state()
    while state.version is not None:
        yield state
        parent = state.manifest.parent
        if parent is None or store.patience.call(lambda parent=parent: store.transport().manifest(parent)) is None:  # type: ignore[misc]
            return
        state = store.state(version=parent)


def log(store: ContentStore, limit: int = 20) -> list[dict[str, Any]]:
    """The newest versions: number, what was done, when, and how many checkpoints and objects there were."""
    return [
        {
            "version": state.version,
            "parent": state.manifest.parent,
            "kind": state.manifest.kind,
            "message": state.manifest.message,
            "created_at": state.manifest.created_at,
            "push_id": state.manifest.push_id,
            "checkpoints": len(state.manifest.entries),
            "objects": len(state.manifest.objects),
        }
        for _, state in zip(range(limit), walk(store), strict=False)
    ]


def diff(old: Mapping[str, Checkpoint], new: Mapping[str, Checkpoint]) -> dict[str, dict[str, list[str]]]:
    """Per stage, the artefacts that are only in `new`, only in `old`, or differ; stages without any are left out."""
    result: dict[str, dict[str, list[str]]] = {}
    for stage in sorted({*old, *new}):
        before = {o.path: o.sha256 for o in old[stage].outputs} if stage in old else {}
        after = {o.path: o.sha256 for o in new[stage].outputs} if stage in new else {}
        found = {
            "added": sorted(set(after) - set(before)),
            "removed": sorted(set(before) - set(after)),
            "changed": sorted(path for path in set(before) & set(after) if before[path] != after[path]),
        }
        if any(found.values()):
            result[stage] = found
    return result


def compare(store: ContentStore, local: Mapping[str, Checkpoint], root: Path) -> dict[str, str]:
    """Stage -> `same`, `not pushed`, `only in the store`, or `changed since its checkpoint`."""
    manifest = store.state().manifest
    stored = manifest.current(store.url)
    result: dict[str, str] = {}
    for stage in sorted({*stored, *local}):
        if stage not in local:
            result[stage] = "only in the store"
        elif not all(output.matches(root) for output in local[stage].outputs):
            result[stage] = "changed since its checkpoint"
        else:
            result[stage] = "same" if store.has(manifest, local[stage]) else "not pushed"
    return result


def freeze(store: ContentStore, folder: Path, *, version: str | None = None) -> dict[str, Any]:
    """Write the newest checkpoint of every stage as plain files, readable offline by `mount://`.

    Layout: `files/<artefact path>` and `MANIFEST.json`, which is written last.

    Raises:
        NotPermitted: the folder has something else in it.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file():
        raise NotPermitted("not empty, and no frozen store", where=str(folder), remedy="Name an empty folder")
    state = store.state(version=version)
    current = state.manifest.current(store.url)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    outputs = [output for checkpoint in current.values() for output in checkpoint.outputs]
    wanted = {output.path for output in outputs}
    for stale in [path for path in (folder / FILES).rglob("*") if path.is_file()]:
        if stale.relative_to(folder / FILES).as_posix() not in wanted:
            stale.unlink()
    brought = store.fetch(state.manifest, outputs, folder / FILES, what="freeze")
    manifest = frozen_manifest(state, current)
    write_bytes(folder / MANIFEST_NAME, manifest.to_bytes())
    return {"folder": str(folder), "version": state.version, "files": len(outputs), "bytes": brought}


def attach(store: ContentStore, folder: Path) -> dict[str, Any]:
    """Publish a frozen folder as a version of the core dataset, for a notebook that mounts it offline.

    Every file is sent, as a plain one. The version's manifest names the same objects as before, so that pulls
    and later pushes go on as if it were not there.

    Returns:
        The version, and `changed`: files that the remote does not serve as they were sent (it may unpack
        archives); a reader of the mount takes those from the network.

    Raises:
        UsageError: the backend's versions cannot be mounted.
    """
    transport = store.transport()
    if not transport.traits.mountable:
        raise UsageError(f"{store.url} cannot be mounted", remedy="Copy the frozen folder to where it is needed")
    files = Snapshot(folder).manifest.files
    packages = []
    for path, sha256 in sorted(files.items()):
        found, md5, size = hash_file(folder / FILES / path)
        if found != sha256:
            raise IntegrityError(f"{path} is not what was frozen", where=str(folder), remedy="Freeze again")
        if size:
            packages.append(Package(Blob(f"{FILES}/{path}", folder / FILES / path, size, sha256, md5), {}))
    uploads = upload_all(store, "core", packages, "freeze")

    def edit(manifest: StoreManifest) -> None:
        manifest.files = dict(files)

    done = commit(store, "core", store.state(), Change("freeze", "plain files of every stage", edit=edit), uploads)
    changed = []
    for one in packages:
        try:
            whole = store.patience.call(lambda one=one: transport.holds(done.version or "", one.blob.name))  # type: ignore[misc]
        except MissingObject:
            whole = (-1, None)
        if whole[1] != one.blob.md5:
            changed.append(one.blob.name)
    return {"version": done.version, "files": len(packages), "changed": changed}


def frozen_manifest(state: State, current: Mapping[str, Checkpoint]) -> StoreManifest:
    """The manifest of a snapshot: only the current checkpoints, and which plain file is what."""
    manifest = state.manifest.successor(state.version, "freeze", f"freeze of version {state.version}")
    keys = {(checkpoint.stage, checkpoint.fingerprint) for checkpoint in current.values()}
    manifest.entries = [entry for entry in manifest.entries if entry.key in keys]
    manifest.files = {o.path: o.sha256 for checkpoint in current.values() for o in checkpoint.outputs}
    used = set(manifest.files.values())
    manifest.objects = {sha: where for sha, where in manifest.objects.items() if sha in used}
    return manifest
