"""Which files travel: one per object, but small objects together where a backend counts files.

A pack is the objects' bytes end to end, after a fixed first line, in the order of their hashes; so the same
objects always give the same pack, and a push that was killed finds its upload again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.digests import CHUNK_BYTES
from shared.stores.base import Blob, Part, Traits, object_key
from shared.stores.manifest import Location
from shared.stores.transfer import hash_file

PACK_HEADER = b"gowhy pack 1\n"
SALT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Source:
    """An object and a local file that holds it."""

    sha256: str
    size: int
    path: Path


@dataclass(frozen=True, slots=True)
class Package:
    """A file to upload, and where each object is inside it: sha256 -> (offset, size)."""

    blob: Blob
    members: dict[str, tuple[int, int]]

    def locations(self, part: Part, version: str | None) -> dict[str, Location]:
        """The manifest's records of the members."""
        return {
            sha: Location(
                size=size, part=part, version=version, name=self.blob.name, offset=offset, md5=self.blob.md5 or None
            )
            for sha, (offset, size) in self.members.items()
        }


def package(sources: Iterable[Source], traits: Traits, work: Path, damaged: set[str]) -> list[Package]:
    """Decide the files. Packs and salted copies are written under `work`; the caller removes them.

    Args:
        sources: each object once.
        traits: the backend's.
        work: a folder for temporary files.
        damaged: objects whose stored copy is wrong; where a backend recognises content by hash and would
            keep the wrong copy, they are stored behind a salt.
    """
    packages: list[Package] = []
    small: list[Source] = []
    for source in sorted(sources, key=lambda item: item.sha256):
        if source.sha256 in damaged and traits.keeps_bytes:
            packages.append(_salted(source, traits, work))
        elif source.size < traits.pack_below:
            small.append(source)
        else:
            name = object_key(source.sha256, traits.suffix)
            md5 = "" if traits.early_read else hash_file(source.path)[1]
            blob = Blob(name, source.path, source.size, source.sha256, md5)
            packages.append(Package(blob, {source.sha256: (0, source.size)}))
    if small:
        packages.append(_pack(small, traits, work))
    return packages


def _pack(sources: list[Source], traits: Traits, work: Path) -> Package:
    return _written("packs", PACK_HEADER, sources, traits, work)


def _salted(source: Source, traits: Traits, work: Path) -> Package:
    return _written("mended", secrets.token_bytes(SALT_BYTES), [source], traits, work)


def _written(folder: str, header: bytes, sources: list[Source], traits: Traits, work: Path) -> Package:
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{folder}-{sources[0].sha256}"
    members: dict[str, tuple[int, int]] = {}
    with path.open("wb") as file:
        file.write(header)
        for source in sources:
            members[source.sha256] = (file.tell(), source.size)
            with source.path.open("rb") as reader:
                while block := reader.read(CHUNK_BYTES):
                    file.write(block)
    sha256, md5, size = hash_file(path)
    return Package(Blob(f"{folder}/{sha256}{traits.suffix}", path, size, sha256, md5), members)
