"""Read an old pickled model without letting it run anything.

A pickle names functions and calls them. This reader knows the few that rebuild tensors, arrays and plain
containers; every other name ends the reading before it is called. Files that `torch.save` wrote are read
by torch's own restricted reader. Only `convert` uses this, and only after `--allow-legacy-pickle`.

Source: Python's pickle documentation, "Restricting Globals"; torch.storage._load_from_bytes, which must
not be used as it is because it unpickles without restriction.
"""

from __future__ import annotations

import gzip
import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from shared.errors import IntegrityError, MissingInput, NotPermitted

MAX_BYTES = 64 << 30  # decompressed; more than any model of ours
BLOCK_BYTES = 1 << 20
# How torch.save began before it wrote zip files: a pickled magic number.
TORCH_MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
GZIP_MAGIC = b"\x1f\x8b"


def read_legacy_pickle(path: Path) -> Any:
    """The object in a `.pkl`, `.pkl.gz` or `torch.save` file.

    Raises:
        MissingInput: no such file.
        NotPermitted: it asks for anything but tensors, arrays and plain containers; the name is in the message.
        IntegrityError: it is damaged.
    """
    if not path.is_file():
        raise MissingInput(f"no such file: {path}")
    try:
        data = _bytes_of(path)
        if data.startswith(TORCH_MAGIC) or zipfile.is_zipfile(io.BytesIO(data)):
            return _load_tensors(data)
        return _Restricted(io.BytesIO(data)).load()
    except (NotPermitted, IntegrityError):
        raise
    except (OSError, EOFError, zlib.error, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    except Exception as error:
        # Damaged bytes make the reader fail in any way; none of them has run anything.
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> IntegrityError:
    return IntegrityError(f"not a readable model: {type(error).__name__}: {error}", where=str(path))


def _bytes_of(path: Path) -> bytes:
    data = path.read_bytes()
    if not data.startswith(GZIP_MAGIC):
        return data
    unpacked = bytearray()
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while block := file.read(BLOCK_BYTES):
            unpacked += block
            if len(unpacked) > MAX_BYTES:
                raise IntegrityError(f"more than {MAX_BYTES} bytes when unpacked", where=str(path))
    return bytes(unpacked)


def _load_tensors(data: bytes) -> Any:
    """Torch's restricted reader; its refusal names what was asked for."""
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(str(error).strip().splitlines()[0]) from error


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    """A numpy number as a Python one; numpy's own function would also take objects."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufcSU" or not isinstance(data, bytes):
        raise _refused("a numpy scalar that is no number or text")
    return np.frombuffer(data, dtype, count=1)[0].item()


def _array(kind: Any, shape: Any, code: Any) -> npt.NDArray[Any]:
    """The empty array that a pickled one is filled into."""
    if kind is not np.ndarray or shape != (0,) or code != b"b":
        raise _refused("an array of a class of its own")
    return np.ndarray((0,), np.int8)


def _from_buffer(buffer: Any, dtype: np.dtype[Any], shape: Any, order: str) -> npt.NDArray[Any]:
    """An array as protocol 5 keeps it."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise _refused("an array of objects")
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)  # type: ignore[call-overload,no-any-return]


_NUMPY: dict[str, Callable[..., Any]] = {
    "multiarray._reconstruct": _array,
    "multiarray.scalar": _scalar,
    "numeric._frombuffer": _from_buffer,
}
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # numpy 1 called the package core, numpy 2 calls it _core.
    **{
        (f"numpy.{core}.{name.partition('.')[0]}", name.partition(".")[2]): function
        for core in ("core", "_core")
        for name, function in _NUMPY.items()
    },
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _load_tensors,
    ("torch", "Size"): torch.Size,
    ("_codecs", "encode"): lambda text, encoding: _latin1(text, encoding),
}


def _latin1(text: Any, encoding: Any) -> bytes:
    """How protocols below 3 spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _refused("a codec other than latin1")
    return text.encode("latin1")


class _Restricted(pickle.Unpickler):
    """Knows the names in `ALLOWED` and no other."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _refused(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _refused(f"an object kept elsewhere ({type(pid).__name__})")


def _refused(what: str) -> NotPermitted:
    return NotPermitted(
        f"the pickle asks for {what}, which is neither tensor, array nor plain container",
        where="--allow-legacy-pickle",
        remedy="Nothing was run. Load it where you trust it, and save a dict of plain arrays",
    )
