"""Places that outlive a store object, for the conformance suite: each one real client and a loopback server."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fakes.faulty import FaultyValues
from fakes.hf_stub import HubStub
from fakes.kaggle_stub import USER, KaggleStub
from fakes.s3_stub import BUCKET, S3Stub

from shared.config import StoreConfig
from shared.stores.base import Part, Transport
from shared.stores.engine import ContentStore
from shared.stores.hub import HubTransport
from shared.stores.kaggle import PARTS, KaggleTransport
from shared.stores.keyvalue import KeyValueTransport
from shared.stores.local import FolderValues
from shared.stores.memory import DictValues
from shared.stores.objects import ObjectValues
from shared.stores.retry import Patience

QUICK = Patience(attempts=5, wait_s=0.01, wait_max_s=0.05, deadline_s=10.0, settle_s=0.3, poll=(0.01, 0.1))
FAULTS = ("dropped", "truncated", "damaged download", "damaged upload", "429", "500", "lost answer", "slow")
_names = (f"ckpt{number}" for number in itertools.count())


class Backend:
    """One store's place; `open` is what a new process does."""

    def __init__(self) -> None:
        self.name = next(_names)

    def transport(self, part: Part, cache: Path) -> Transport:
        raise NotImplementedError

    def open(
        self, cache: Path, wrap: Callable[[Transport], Transport] = lambda transport: transport, **config: Any
    ) -> ContentStore:
        return ContentStore(
            f"test://{self.name}",
            lambda part: wrap(self.transport(part, cache)),
            cache,
            StoreConfig(**{"parallel": 2, **config}),
            patience=QUICK,
        )

    def flip(self, store: ContentStore, sha256: str) -> None:
        """Same-size corruption at rest."""
        where = store.state().manifest.objects[sha256]
        self.flip_at(where.part, where.version or "", where.name, where.offset)

    def lose(self, store: ContentStore, sha256: str) -> None:
        """Delete a stored file behind the store's back."""
        where = store.state().manifest.objects[sha256]
        self.lose_at(where.part, where.version or "", where.name)

    def flip_at(self, part: Part, version: str, name: str, offset: int) -> None:
        raise NotImplementedError

    def lose_at(self, part: Part, version: str, name: str) -> None:
        raise NotImplementedError

    def inject(self, fault: str) -> None:
        """Let the next operation that can meet this fault meet it."""
        raise NotImplementedError

    def met(self) -> int:
        """Faults that were met."""
        raise NotImplementedError


class KeyValueBackend(Backend):
    """Faults of a disk or a dict are injected above it."""

    def __init__(self, values: Any) -> None:
        super().__init__()
        self.values = FaultyValues(values)

    def transport(self, part: Part, cache: Path) -> Transport:
        return KeyValueTransport(self.values, "" if part == "core" else f"{part}/")

    def inject(self, fault: str) -> None:
        self.values.inject(fault)

    def met(self) -> int:
        return len(self.values.taken)

    def sent(self) -> int:
        return self.values.sent


class LocalBackend(KeyValueBackend):
    def __init__(self, root: Path) -> None:
        super().__init__(FolderValues(root))
        self.root = root

    def path(self, part: Part, name: str) -> Path:
        return self.root / ("" if part == "core" else part) / name

    def flip_at(self, part: Part, version: str, name: str, offset: int) -> None:
        data = bytearray(self.path(part, name).read_bytes())
        data[offset] ^= 1
        self.path(part, name).write_bytes(data)

    def lose_at(self, part: Part, version: str, name: str) -> None:
        self.path(part, name).unlink()


class MemoryBackend(KeyValueBackend):
    def __init__(self) -> None:
        super().__init__(DictValues())
        self.data = self.values.values.data

    @staticmethod
    def key(part: Part, name: str) -> str:
        return name if part == "core" else f"{part}/{name}"

    def flip_at(self, part: Part, version: str, name: str, offset: int) -> None:
        data = bytearray(self.data[self.key(part, name)])
        data[offset] ^= 1
        self.data[self.key(part, name)] = bytes(data)

    def lose_at(self, part: Part, version: str, name: str) -> None:
        del self.data[self.key(part, name)]


class S3Backend(Backend):
    def __init__(self, stub: S3Stub) -> None:
        super().__init__()
        self.stub = stub

    def transport(self, part: Part, cache: Path) -> Transport:
        return KeyValueTransport(self.values, "" if part == "core" else f"{part}/")

    @functools.cached_property
    def values(self) -> ObjectValues:
        """One client for all: making one takes most of a second."""
        return ObjectValues(f"s3://{BUCKET}/{self.name}")

    def key(self, part: Part, name: str) -> str:
        return f"{self.name}/{name}" if part == "core" else f"{self.name}/{part}/{name}"

    def flip_at(self, part: Part, version: str, name: str, offset: int) -> None:
        self.stub.flip(self.key(part, name), offset)

    def lose_at(self, part: Part, version: str, name: str) -> None:
        self.stub.client().delete_object(Bucket=BUCKET, Key=self.key(part, name))

    def sent(self) -> int:
        return sum(size for path, size in self.stub.puts if f"/{self.name}/" in path)

    def met(self) -> int:
        return len(self.stub.faults.taken)

    def inject(self, fault: str) -> None:
        objects, manifests = f"/{self.name}/.*objects/", f"/{self.name}/manifests/"
        what: dict[str, tuple[str, str, dict[str, Any]]] = {
            "dropped": ("PUT", objects, {"drop_before": True}),
            "truncated": ("GET", objects, {"drop_after": 3}),
            "damaged download": ("GET", objects, {"flip": True}),
            "damaged upload": ("PUT", objects, {"flip": True}),
            "429": ("PUT", objects, {"status": 429}),
            "500": ("PUT", objects, {"status": 500}),
            "lost answer": ("PUT", manifests, {"drop_after": True}),
            "slow": ("PUT", manifests, {"delay": 0.5}),
        }
        method, name, action = what[fault]
        self.stub.fault(method, name=name, **action)


class KaggleBackend(Backend):
    def __init__(self, stub: KaggleStub) -> None:
        super().__init__()
        self.stub = stub

    def transport(self, part: Part, cache: Path) -> Transport:
        transport = KaggleTransport(USER, f"{self.name}-{PARTS[part]}", cache, QUICK)
        transport.traits = replace(transport.traits, pack_below=20)  # so that a test's files go both ways
        return transport

    def blob(self, part: Part, version: str, name: str) -> Any:
        return self.stub.dataset(f"{self.name}-{PARTS[part]}").versions[int(version) - 1].files[name]

    def flip_at(self, part: Part, version: str, name: str, offset: int) -> None:
        blob = self.blob(part, version, name)
        data = bytearray(blob.path.read_bytes())
        data[offset] ^= 1
        blob.path.write_bytes(data)
        blob._md5 = None

    def lose_at(self, part: Part, version: str, name: str) -> None:
        del self.stub.dataset(f"{self.name}-{PARTS[part]}").versions[int(version) - 1].files[name]

    def sent(self) -> int:
        return sum(i["bytes"] for i in self.stub.log if i["op"] == "PUT" and i["name"] != "MANIFEST.json")

    def met(self) -> int:
        return len(self.stub.state.faults.taken)

    def inject(self, fault: str) -> None:
        what: dict[str, tuple[str, str, dict[str, Any]]] = {
            "dropped": ("PUT", r"\.bin", {"drop_after": 3}),
            "truncated": ("GET", r"\.bin", {"drop_after": 3, "skip": 0}),
            "damaged download": ("GET", r"\.bin", {"flip": True}),
            "damaged upload": ("PUT", r"\.bin", {"flip": True}),
            "429": ("StartBlobUpload", "", {"status": 429, "headers": {"Retry-After": "0.1"}}),
            "500": ("PUT", r"\.bin", {"status": 500}),
            "lost answer": ("CreateDataset", "", {"drop_after": True}),
            "slow": ("GetDataset", "", {"delay": 0.3}),
        }
        op, name, action = what[fault]
        if fault == "slow":
            self.stub.state.processing = 0.5
        self.stub.fault(op, name=name, **action)


class HubBackend(Backend):
    def __init__(self, stub: HubStub) -> None:
        super().__init__()
        self.stub = stub
        stub.state.lfs.clear()  # content is known to the whole Hub, and every test stores the same

    def transport(self, part: Part, cache: Path) -> Transport:
        return HubTransport(f"tester/{self.name}-{PARTS[part]}", self.stub.url)

    def file(self, part: Part, version: str, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        commit = self.stub.state.commit(f"tester/{self.name}-{PARTS[part]}", version)
        return commit["files"], commit["files"][name]

    def flip_at(self, part: Part, version: str, name: str, offset: int) -> None:
        file = self.file(part, version, name)[1]
        data = bytearray(self.stub.state.lfs[file["sha256"]])
        data[offset] ^= 1
        self.stub.state.lfs[file["sha256"]] = bytes(data)

    def lose_at(self, part: Part, version: str, name: str) -> None:
        for commit in self.stub.state.repositories[f"tester/{self.name}-{PARTS[part]}"]["commits"]:
            commit["files"].pop(name, None)

    def sent(self) -> int:
        return self.stub.sent()

    def met(self) -> int:
        return len(self.stub.state.faults.taken)

    def inject(self, fault: str) -> None:
        what: dict[str, tuple[str, dict[str, Any]]] = {
            "dropped": ("lfs", {"drop_before": True}),
            "truncated": ("resolve", {"drop_after": 3}),
            "damaged download": ("resolve", {"flip": True}),
            "damaged upload": ("lfs", {"flip": True}),
            "429": ("info", {"status": 429, "headers": {"Retry-After": "0"}}),
            "500": ("commit", {"status": 500}),
            "lost answer": ("commit", {"drop_after": True}),
            "slow": ("commit", {"delay": 0.5}),
        }
        op, action = what[fault]
        name = r"\.bin" if op == "resolve" else ""
        self.stub.fault(op, name=name, **action)
