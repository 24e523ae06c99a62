"""Is a stored object what its hash says?"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from shared.stores.base import DamagedBody, MissingObject, Transient
from shared.stores.manifest import Location

if TYPE_CHECKING:
    from shared.stores.engine import ContentStore

Problem = Literal["missing", "cut", "damaged"]
Depth = Literal["size", "digest", "bytes"]


def problem_of(store: ContentStore, sha256: str, location: Location | None, depth: Depth = "digest") -> Problem | None:
    """What is wrong with a stored object; None when nothing is.

    Args:
        store: its transport is asked, with the store's patience.
        sha256: what the bytes must hash to.
        location: where they are; None counts as missing.
        depth: `size` asks for existence and size; `digest` compares the md5 that the remote computed from its
            own bytes, and reads the bytes where it has none; `bytes` always reads and hashes them.
    """
    if location is None:
        return "missing"
    transport = store.transport(location.part)
    try:
        size, md5 = store.patience.call(lambda: transport.holds(location.version or "", location.name))
        if size < location.offset + location.size:
            return "cut"
        if depth == "size":
            return None
        if depth == "digest" and md5 is not None and location.md5 is not None:
            return None if md5 == location.md5 else "damaged"
        return None if store.patience.call(lambda: _hash(store, location)) == sha256 else "damaged"
    except MissingObject:
        return "missing"
    except DamagedBody:
        return "damaged"


def _hash(store: ContentStore, location: Location) -> str:
    digest, done = hashlib.sha256(), 0
    for block in store.read(location):
        digest.update(block)
        done += len(block)
    if done < location.size:
        raise Transient(f"got {done} of {location.size} bytes of {location.name}", where=store.url)
    return digest.hexdigest()
