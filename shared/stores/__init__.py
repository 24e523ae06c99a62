"""Where checkpoints live. A store is chosen by URL scheme; see `STORES`.

store = open_store("local:///data/store", cache=Path("out/cache"))
checkpoint = store.pull("stage_06_embeddings_esm2", fingerprint, into=run_folder)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import ConfigError
from shared.stores.base import Push, Store
from shared.stores.local import LocalStore
from shared.stores.memory import MemoryStore

__all__ = ["STORES", "LocalStore", "MemoryStore", "Push", "Store", "open_store"]

STORES: dict[str, Callable[[str, Path], Store]] = {
    "local": LocalStore.open,
    "memory": MemoryStore.open,
}


def open_store(url: str, cache: Path) -> Store:
    """Open the store that a URL names.

    Args:
        url: `scheme://rest`, for example `local:///data/store`.
        cache: a local folder the store may use for partial transfers.

    Raises:
        ConfigError: the scheme is not in `STORES`.
    """
    scheme = urlsplit(url).scheme
    if scheme not in STORES:
        raise ConfigError(
            f"unknown store scheme {scheme!r} in {url!r}",
            where="store.url",
            remedy=f"Known: {', '.join(f'{name}://' for name in STORES)}",
        )
    return STORES[scheme](url, cache)
