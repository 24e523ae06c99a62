"""Make one new version visible: upload, verify, compare-and-swap, and look before repeating."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shared.atomic import write_json
from shared.checkpoint import Checkpoint
from shared.digests import digest_of
from shared.errors import CannotWrite, GowhyError, IntegrityError, NotPermitted, ServiceUnavailable
from shared.stores.base import Meter, MissingObject, Moved, Part, Push, StoreConflict, Transient
from shared.stores.inspection import problem_of
from shared.stores.manifest import Location, StoreManifest, parse_manifest, push_id_of
from shared.stores.packing import Package, Source, package
from shared.stores.transfer import run_batch

if TYPE_CHECKING:
    from shared.stores.engine import ContentStore, State

MAX_REBASES = 100
MENDING_TRIES = 2


@dataclass
class Change:
    """What a commit does to a manifest; applied again, on another base, when a writer was faster."""

    kind: str
    message: str
    checkpoint: Checkpoint | None = None
    locations: dict[str, Location] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    edit: Callable[[StoreManifest], None] = lambda _manifest: None

    def apply(self, manifest: StoreManifest) -> None:
        """Change a successor in place."""
        if self.checkpoint is not None:
            manifest.put(self.checkpoint)
        manifest.objects.update(self.locations)
        manifest.parts.update(self.parts)
        self.edit(manifest)

    def check(self, base: StoreManifest, other: StoreManifest, where: str) -> None:
        """Refuse to go on when the other writer pushed the same stage with other content.

        Raises:
            StoreConflict: it did; its checkpoint stands.
        """
        if self.checkpoint is None:
            return
        for entry in other.entries:
            stage, fingerprint = entry.key
            if stage != self.checkpoint.stage or base.find(stage, fingerprint) == entry:
                continue
            theirs = Checkpoint.from_json(entry.checkpoint, where=where)
            if {o.path: o.sha256 for o in theirs.outputs} != {o.path: o.sha256 for o in self.checkpoint.outputs}:
                raise StoreConflict(
                    f"another writer pushed {stage} (fingerprint {fingerprint[:12]}) while this one did",
                    where=where,
                    remedy="Its checkpoint is stored; compare with `store diff`, then run again to add yours",
                )


def publish(store: ContentStore, part: Part, base: State, change: Change, sources: list[Source]) -> Push:
    """Send objects and commit a change; all of it becomes visible, or none.

    Raises:
        StoreConflict: another writer pushed the same stage meanwhile.
        IntegrityError: what the remote holds is not what was sent, also after sending it again.
        ServiceUnavailable: the remote did not answer; run again, what was sent is kept.
    """
    transport = store.transport(part)
    if not transport.traits.writable:
        raise CannotWrite("this store is read-only", where=store.url, remedy="Choose another with --store URL")
    with work_folder(store) as work:
        packages = package(sources, transport.traits, work, store.damaged)
        uploads = upload_all(store, part, packages, change.message)
        record = note_pending(store, part, packages)
        for one in packages:
            change.locations.update(one.locations(part, None))
        done = commit(store, part, base, change, uploads)
        if base.manifest.seq == 0 and store.patience.call(transport.private) is False:
            raise NotPermitted(
                "the new dataset is public",
                where=transport.dataset,
                remedy="Make it private there, or delete it, at once",
            )
        if not transport.traits.early_read:
            verify_sent(store, part, packages, sources)
        if record is not None:
            record.unlink(missing_ok=True)
    store.damaged -= {source.sha256 for source in sources}
    if not done.published:
        return done
    return Push(len(sources), sum(source.size for source in sources), published=True, version=done.version)


def upload_all(store: ContentStore, part: Part, packages: list[Package], what: str) -> dict[str, str]:
    """Send every file, several at a time; name -> handle. One failure fails all."""
    transport = store.transport(part)
    handles: dict[str, str] = {}

    def send(one: Package, meter: Meter) -> None:
        replace = not store.damaged.isdisjoint(one.members)
        for last in (False, True):
            handle = store.patience.call(lambda replace=replace: transport.upload(one.blob, meter, replace=replace))  # type: ignore[misc]
            if not transport.traits.early_read:
                break
            location = Location(size=one.blob.size, part=part, name=one.blob.name)
            problem = problem_of(store, one.blob.sha256, location)
            if problem is None:
                break
            if last:
                raise IntegrityError(f"{one.blob.name} is {problem} after sending it twice", where=transport.dataset)
            replace = True
        handles[one.blob.name] = handle

    run_batch(what, sum(one.blob.size for one in packages), store.config.parallel, send, packages)
    return handles


def commit(store: ContentStore, part: Part, base: State, change: Change, uploads: dict[str, str]) -> Push:
    """Commit on `base`, or on what others have made of it meanwhile."""
    transport = store.transport(part)
    for _ in range(MAX_REBASES):
        manifest = base.manifest.successor(base.version, change.kind, change.message)
        change.apply(manifest)
        version = make_visible(store, part, base, manifest, uploads)
        if version is not None:
            for other in others_between(store, part, base.version, version):
                change.check(base.manifest, other, transport.dataset)
            return Push(0, 0, published=True, version=version)
        moved = store.state(part)
        change.check(base.manifest, moved.manifest, transport.dataset)
        if change.checkpoint is not None and store.has(moved.manifest, change.checkpoint):
            return Push(0, 0, published=False, version=moved.version)
        base = moved
    raise ServiceUnavailable(f"{MAX_REBASES} other commits came first", where=transport.dataset, remedy="Run again")


def make_visible(
    store: ContentStore, part: Part, base: State, manifest: StoreManifest, uploads: dict[str, str]
) -> str | None:
    """One version with this manifest; None when the dataset moved and the manifest has to be made again."""
    transport, patience = store.transport(part), store.patience
    data = manifest.to_bytes()
    failure: GowhyError = ServiceUnavailable("no commit was tried", where=transport.dataset)
    for wait_s in (0.0, *patience.waits()):
        time.sleep(wait_s)
        if patience.call(transport.head) != base.version:
            # Perhaps it was this very commit that moved it, and its answer was lost.
            return find(store, part, base.version, manifest.push_id)
        try:
            version = transport.commit(base.version, data, uploads, manifest.message)
        except Moved:
            return find(store, part, base.version, manifest.push_id)
        except Transient as error:
            failure = error
            found = wait_for(store, part, base.version, manifest.push_id, patience.settle_s)
            if found is not None:
                return found
            continue
        if version is None:
            version = wait_for(store, part, base.version, manifest.push_id, patience.deadline_s)
            if version is None:
                raise ServiceUnavailable(
                    f"accepted, but not visible after {patience.deadline_s:.0f} s",
                    where=transport.dataset,
                    remedy="The remote may be slow, or the quota used up; look there, then run again",
                )
        return version
    raise failure


def wait_for(store: ContentStore, part: Part, base: str | None, push_id: str, limit_s: float) -> str | None:
    """Look for a version by push id until `limit_s`, and on while the remote says it is busy; None if it never came."""
    transport = store.transport(part)
    begun = time.monotonic()
    for pause in store.patience.pauses():
        if (found := find(store, part, base, push_id)) is not None:
            return found
        if not store.patience.call(transport.busy) and time.monotonic() - begun >= limit_s:
            return None
        time.sleep(min(pause, max(0.01, limit_s - (time.monotonic() - begun))))
    return find(store, part, base, push_id)


def find(store: ContentStore, part: Part, base: str | None, push_id: str) -> str | None:
    """The version after `base` that carries a push id."""
    transport, call = store.transport(part), store.patience.call
    version = call(transport.head)
    while version is not None and version != base:
        data = call(lambda version=version: transport.manifest(version))  # type: ignore[misc]
        if push_id_of(data) == push_id:
            return version
        for other in call(lambda version=version: transport.skipped(base, version)):  # type: ignore[misc]
            if push_id_of(call(lambda other=other: transport.manifest(other))) == push_id:  # type: ignore[misc]
                return str(other)
        if data is None or not transport.traits.cas:
            return None
        version = parse_manifest(data, version=version, part=part, where=transport.dataset).parent
    return None


def others_between(store: ContentStore, part: Part, base: str | None, version: str) -> Iterator[StoreManifest]:
    """Manifests that others published between a base and the version built on it; only without compare-and-swap."""
    transport, call = store.transport(part), store.patience.call
    for other in call(lambda: transport.skipped(base, version)):
        data = call(lambda other=other: transport.manifest(other))  # type: ignore[misc]
        if data is not None:
            yield parse_manifest(data, version=other, part=part, where=transport.dataset)


def verify_sent(store: ContentStore, part: Part, packages: list[Package], sources: list[Source]) -> None:
    """Check what a commit brought where it can only be read afterwards; send damaged files again, as a new version."""
    for last in (False,) * MENDING_TRIES + (True,):
        bad = damaged_of(store, part, packages)
        if not bad:
            return
        store.damaged |= bad
        if last:
            raise IntegrityError(
                f"{len(bad)} objects are damaged in the store, also after sending them again: {min(bad)}",
                where=store.transport(part).dataset,
                remedy="Check the connection, then run `store repair`",
            )
        with work_folder(store) as work:
            again = [source for source in sources if source.sha256 in bad]
            packages = package(again, store.transport(part).traits, work, store.damaged)
            uploads = upload_all(store, part, packages, "send again")
            change = Change("repair", "send again what arrived damaged")
            for one in packages:
                change.locations.update(one.locations(part, None))
            commit(store, part, store.state(part), change, uploads)
        store.damaged -= bad


def damaged_of(store: ContentStore, part: Part, packages: list[Package]) -> set[str]:
    """Objects of files just sent that are not stored as they should be."""
    objects, transport = store.state(part).manifest.objects, store.transport(part)
    bad: set[str] = set()
    for one in packages:
        location = objects[next(iter(one.members))]
        with contextlib.suppress(MissingObject):
            _, md5 = store.patience.call(lambda at=location: transport.holds(at.version or "", at.name))  # type: ignore[misc]
            if md5 is not None and md5 == one.blob.md5:
                continue  # the whole file, and so every object in it
        bad |= {sha for sha in one.members if problem_of(store, sha, objects.get(sha)) is not None}
    return bad


# A kill between a commit and its verification must not leave a damaged object unseen.


def pending_path(store: ContentStore, part: Part) -> Path | None:
    """Where the record of unverified uploads of a dataset is kept."""
    if store.cache is None:
        return None
    return store.cache / "pending" / f"{digest_of('pending', store.url, part)[:32]}.json"


def note_pending(store: ContentStore, part: Part, packages: list[Package]) -> Path | None:
    """Remember what has to be verified, before it is committed."""
    path = pending_path(store, part)
    if path is None or not packages or store.transport(part).traits.early_read:
        return None
    write_json(path, sorted(sha for one in packages for sha in one.members))
    return path


def settle_pending(store: ContentStore, root: Path) -> None:
    """Verify what an earlier, killed push left unverified; what is damaged is sent again from `root`."""
    for part in ("core", "embeddings"):
        path = pending_path(store, part)
        if path is None or not path.is_file():
            continue
        manifest = store.state(part).manifest
        for sha in json.loads(path.read_bytes()):
            if sha in manifest.objects and problem_of(store, sha, manifest.objects[sha]) is not None:
                store.damaged.add(sha)
        if store.damaged:
            from shared.stores.upkeep import repair  # noqa: PLC0415 - repair is built on this module

            repair(store, root, sorted(store.damaged))
        path.unlink()


@contextlib.contextmanager
def work_folder(store: ContentStore) -> Iterator[Path]:
    """A folder for packs, gone at the end; made only when something is written into it."""
    base = store.cache if store.cache is not None else Path()
    folder = base / "work" / uuid.uuid4().hex
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
