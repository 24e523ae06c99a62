"""Where checkpoints live. A store is chosen by URL scheme; see `STORES`.

store = open_store("kaggle://owner/slug", cache=Path("out/cache"))
checkpoint = store.pull("stage_06_embeddings_esm2", fingerprint, into=run_folder)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from shared.config.root import StoreConfig
from shared.errors import ConfigError
from shared.stores.base import Push, Store, StoreConflict
from shared.stores.engine import ContentStore
from shared.stores.hub import open_hub
from shared.stores.kaggle import open_kaggle
from shared.stores.local import LocalStore
from shared.stores.memory import MemoryStore
from shared.stores.mount import open_mount
from shared.stores.objects import open_object_store

__all__ = ["STORES", "ContentStore", "LocalStore", "MemoryStore", "Push", "Store", "StoreConflict", "open_store"]

STORES: dict[str, Callable[[str, Path, StoreConfig], ContentStore]] = {
    "local": LocalStore.open,
    "memory": MemoryStore.open,
    "mount": open_mount,
    "kaggle": open_kaggle,
    "hf": open_hub,
    "s3": open_object_store,
    "gs": open_object_store,
}


def open_store(url: str, cache: Path, config: StoreConfig | None = None) -> ContentStore:
    """Open the store that a URL names; nothing is sent or asked yet.

    Args:
        url: `scheme://rest`, for example `local:///data/store` or `kaggle://owner/slug`. Besides the schemes
            in `STORES`, any that fsspec knows.
        cache: a local folder the store may use for partial transfers.
        config: the `store` section; its `url` is not looked at.

    Raises:
        ConfigError: the scheme is known neither here nor to fsspec, or the rest is not what the scheme needs.
    """
    scheme = urlsplit(url).scheme
    config = config or StoreConfig()
    if scheme in STORES:
        return STORES[scheme](url, cache, config)
    from fsspec import available_protocols  # noqa: PLC0415 - only for schemes of which nothing is known here

    if scheme in available_protocols():
        return open_object_store(url, cache, config)
    raise ConfigError(
        f"unknown store scheme {scheme!r} in {url!r}",
        where="store.url",
        remedy=f"Known: {', '.join(f'{name}://' for name in STORES)}, and what fsspec knows",
    )
