"""Mutated manifests: each is refused cleanly, whatever was done to it, and leaves nothing behind."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.services.xai_worker.http.test_submit import URL

QUICK, ALL = 300, 12_000
JUNK: list[Any] = [
    None, True, 0, -1, 1, 2**63, 10**400, 0.5, -0.0, 1e308, "", " ", "x", "..", "../../etc/passwd", "/etc/passwd",
    "/proc/self/environ", "file:///etc/passwd", "http://169.254.169.254/", "a/../b", "\x00", "\x1b[2J", "\ud800",
    "\u202e", "é" * 500, "x" * 20_000, [], {}, [[]], [None] * 100, {"": ""}, {"__proto__": {}}, {"path": "/etc/passwd"},
    ["../../x"], "1.0", "2.0", "0.9", "1.0.0", "complete", "partial", "latest", "demo", "{{7*7}}", "${jndi:x}",
    "'; DROP TABLE jobs; --", "<script>alert(1)</script>", "f" * 64, "F" * 64, "cos\nsystem\n(S'id'\ntR.", "\\u0000",
]  # fmt: skip
KEYS = ["manifest_version", "run_id", "stages", "files", "path", "sha256", "size", "checkpoints", "model", "__class__"]
TYPES = ["application/json", "application/x-www-form-urlencoded"]
CLEAN = {400, 413, 415, 422}


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    found: list[tuple[Any, Any]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        found.append((value, key))
        found += places(inner)
    return found


def replace(value: Any, chance: random.Random) -> None:
    container, key = chance.choice(places(value))
    container[key] = json.loads(json.dumps(chance.choice(JUNK)))


def remove(value: Any, chance: random.Random) -> None:
    container, key = chance.choice(places(value))
    del container[key]


def add(value: Any, chance: random.Random) -> None:
    container, _ = chance.choice(places(value))
    if isinstance(container, dict):
        container[chance.choice(KEYS)] = chance.choice(JUNK)
    else:
        container.append(chance.choice(JUNK))


def move(value: Any, chance: random.Random) -> None:
    (one, i), (other, j) = chance.choice(places(value)), chance.choice(places(value))
    other[j] = json.loads(json.dumps(one[i]))


def nest(value: Any, chance: random.Random) -> None:
    container, key = chance.choice(places(value))
    for _ in range(chance.choice([1, 10, 200])):
        container[key] = chance.choice([[container[key]], {"a": container[key]}])


STRUCTURAL: list[Callable[[Any, random.Random], None]] = [replace, replace, replace, remove, add, move, nest]


def spoil(data: bytes, chance: random.Random) -> bytes:
    """Change bytes, not structure."""
    spoiled = bytearray(data)
    for _ in range(chance.choice([1, 1, 3, 20])):
        at = chance.randrange(len(spoiled))
        how = chance.randrange(4)
        if how == 0:
            spoiled[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            del spoiled[at : at + chance.randrange(1, 50)]
        elif how == 2:
            spoiled[at:at] = chance.choice(
                [b"\0", b"\xff", b'"', b"{", b"]", b"1e999", b"NaN", b"//", b"\xef\xbb\xbf", b","]
            )
        else:
            spoiled[at:at] = spoiled[max(0, at - 200) : at]
        if not spoiled:
            spoiled += b"x"
    return bytes(spoiled)


def mutated(data: bytes, chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return spoil(data, chance)
    value = json.loads(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        if places(value):
            chance.choice(STRUCTURAL)(value, chance)
    return json.dumps(value, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")


def same(one: bytes, other: bytes) -> bool:
    try:
        return json.dumps(json.loads(one), sort_keys=True) == json.dumps(json.loads(other), sort_keys=True)
    except (ValueError, RecursionError):
        return False


def fuzz(client: TestClient, queue: MemoryQueue, run: PublishedRun, count: int, seed: int) -> Counter[int]:
    original, before = run.path.read_bytes(), tree(run.out.parent)
    chance, seen = random.Random(seed), Counter[int]()
    while sum(seen.values()) < count:
        body = mutated(original, chance)
        if same(body, original):
            continue  # spelled otherwise, the manifest is still itself
        response = client.post(URL, content=body, headers={"Content-Type": chance.choice(TYPES)})
        said = (response.status_code, body[:300], response.text[:300])
        assert response.status_code in CLEAN, said
        assert response.headers["content-type"] == "application/problem+json", said
        assert "Traceback" not in response.text, said
        assert "root:" not in response.text, said
        seen[response.status_code] += 1
    assert not queue.jobs
    assert tree(run.out.parent) == before
    return seen


def tree(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


def test_a_mutated_manifest_is_refused_cleanly(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    seen = fuzz(client, queue, run, QUICK, seed=1)
    assert min(seen[400], seen[422]) > 10, seen


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twelve_thousand_mutated_manifests(client: TestClient, queue: MemoryQueue, run: PublishedRun) -> None:
    print(fuzz(client, queue, run, ALL, seed=2))


@pytest.mark.parametrize("count", [100, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_mutated_manifest_on_the_volume_is_refused_or_still_good(
    client: TestClient, queue: MemoryQueue, run: PublishedRun, count: int
) -> None:
    original, chance, seen = run.path.read_bytes(), random.Random(count), Counter[int]()
    queue.bound = queue.owner_bound = 10_000
    for _ in range(count):
        run.path.write_bytes(mutated(original, chance))
        response = client.post(URL, json={"run_id": run.run_id})
        assert response.status_code in {202, 422, 400}, (run.path.read_bytes()[:300], response.text)
        if response.status_code == 202:
            known = json.loads(run.path.read_bytes())
            assert (known["run_id"], known["status"]) == (run.run_id, "complete")
        else:
            assert response.headers["content-type"] == "application/problem+json"
        seen[response.status_code] += 1
    assert seen[422] > seen[202] / 2, seen


@pytest.mark.parametrize(
    "bomb", ["deep list", "deep object", "wide", "long number", "long string", "gzip", "zip", "pickle"]
)
def test_bombs_are_refused(client: TestClient, queue: MemoryQueue, run: PublishedRun, bomb: str) -> None:
    import gzip
    import io
    import pickle
    import zipfile

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"0" * (30 << 20))

    class Shell:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (f"open({str(run.out / 'pwned')!r}, 'w')",)

    body = {
        "deep list": b"[" * 60_000,
        "deep object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        "wide": b'{"manifest_version":"1.0","stages":[' + b"{}," * 15_000 + b"{}]}",
        "long number": b'{"a":' + b"9" * 50_000 + b"}",
        "long string": b'{"run_id":"' + b"x" * 50_000 + b'"}',
        "gzip": gzip.compress(b"0" * (30 << 20)),
        "zip": packed.getvalue(),
        "pickle": pickle.dumps(Shell()),
    }[bomb]
    before = tree(run.out.parent)
    headers = {"Content-Type": "application/json"}
    if bomb == "gzip":
        assert client.post(URL, content=body, headers={**headers, "Content-Encoding": "gzip"}).status_code == 415
    response = client.post(URL, content=body, headers=headers)
    assert response.status_code in CLEAN
    assert not queue.jobs
    assert tree(run.out.parent) == before
