"""Dataset registry: a name in `data.name` -> defaults for the file keys of `data.*`; keys that the user sets win."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from shared.atomic import write_json
from shared.config.data import DataConfig
from shared.errors import ConfigError, MissingInput, from_os_error

VERSION = "1"
Size = Literal["demo", "smoke"]
DEMO_SEED = 2024
DEFAULT_DATA = Path(__file__).resolve().parents[4] / "shared" / "data"  # beside the repository

Files = dict[str, Path]
Names = dict[str, str | tuple[str, ...]]  # the first that exists, where a file has had several names
Dataset = Callable[[Path], Files]

_TINY: Names = {
    "train_fasta": "train_sequences.fasta",
    "train_terms": "train_terms.tsv",
    "train_taxonomy": "train_taxonomy.tsv",
    "test_fasta": "testsuperset.fasta",
    "test_taxonomy": "test_taxonomy.tsv",
    "test_terms": "test_terms.tsv",
    "obo": "go-basic.obo",
    "ia": "IA.tsv",
}
_MEDIUM: Names = {
    "train_fasta": "medium/train_sequences.fasta.gz",
    "train_terms": "medium/train_terms.tsv.gz",
    "train_taxonomy": "medium/train_taxonomy.tsv",
    "test_fasta": "medium/test_sequences.fasta.gz",
    "test_taxonomy": "medium/test_taxonomy.tsv",
    "test_terms": "medium/test_terms.tsv.gz",
    "known_terms": "medium/test_known_terms.tsv.gz",
    "split_ids": "medium/val_ids.txt",
    "ia": "medium/IA.tsv.gz",
    "obo": "go/go-basic.obo.gz",
}
# The test taxa are in the FASTA headers; testsuperset-taxon-list.tsv only names them and is not needed.
_CAFA6: Names = {
    "train_fasta": "Train/train_sequences.fasta",
    "train_terms": "Train/train_terms.tsv",
    "train_taxonomy": "Train/train_taxonomy.tsv",
    "obo": "Train/go-basic.obo",
    "test_fasta": "Test/testsuperset.fasta",
    "ia": "IA.tsv",
}
_CAFA5: Names = {
    **_CAFA6,
    "test_fasta": ("Test (Targets)/testsuperset.fasta", "Test/testsuperset.fasta"),
    "ia": ("IA.txt", "IA.tsv"),
}


def dataset_defaults(name: str, version: str, out: Path) -> Mapping[str, Path]:
    """File defaults of an entry.

    Args:
        name: `data.name`.
        version: `data.version`.
        out: `paths.out`; generated data are kept in its cache.

    Raises:
        ConfigError: no such entry or version.
        MissingInput: `GOWHY_DATA` or a file of the entry is not there.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset {name!r}", where="data.name", remedy=f"Known: {', '.join(DATASETS)}")
    if version != VERSION:
        raise ConfigError(f"{name} has no version {version!r}", where="data.version", remedy=f"Known: {VERSION}")
    return DATASETS[name](out / "cache")


def data_root() -> Path:
    """The folder with the data: `GOWHY_DATA`, else `../shared/data` beside the repository.

    Raises:
        MissingInput: neither is there.
    """
    named = os.environ.get("GOWHY_DATA")
    root = Path(named) if named else DEFAULT_DATA
    if not root.is_dir():
        what = f"GOWHY_DATA={named} is no folder" if named else "GOWHY_DATA is not set"
        raise MissingInput(
            what, where="data.name", remedy="Export GOWHY_DATA=<folder with the data>, or use data.name=demo"
        )
    return root


def _from_root(folder: str, names: Names) -> Dataset:
    """Entry of files that lie under the data folder; `names` maps `data.*` keys to paths below `folder`."""

    def files(cache: Path) -> Files:  # noqa: ARG001 - generated entries need it
        root = data_root() / folder
        found = {key: _first_file(root, name) for key, name in names.items()}
        missing = sorted(str(path) for path in found.values() if not path.is_file())
        if missing:
            what = f"{len(missing)} of {len(found)} dataset files are missing, first {missing[0]}"
            remedy = "Point GOWHY_DATA at the folder that holds them, or set the data.* keys"
            raise MissingInput(what, where="data.name", remedy=remedy)
        return found

    return files


def _first_file(root: Path, name: str | tuple[str, ...]) -> Path:
    candidates = [root / candidate for candidate in ((name,) if isinstance(name, str) else name)]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _generated(size: Size) -> Dataset:
    """Entry of generated files, written once into the cache as a whole folder."""

    def files(cache: Path) -> Files:
        folder = cache / f"{size}-{VERSION}"
        listing = folder / "dataset.json"
        if not listing.is_file():
            _generate(folder, size)
        return {key: folder / name for key, name in json.loads(listing.read_bytes()).items()}

    return files


def _generate(folder: Path, size: Size) -> None:
    from services.train.data.demo import write_demo  # noqa: PLC0415 - slow to import, and only this entry needs it

    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        written = write_demo(temporary, size=size, seed=DEMO_SEED)
        keys = sorted(set(written) & set(DataConfig.input_files()))
        write_json(temporary / "dataset.json", {key: str(Path(written[key]).relative_to(temporary)) for key in keys})
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "dataset.json").is_file():  # else another process was first; its files are the same
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
    except OSError as error:
        raise from_os_error(error, str(folder)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _nothing(cache: Path) -> Files:  # noqa: ARG001
    return {}


DATASETS: Mapping[str, Dataset] = {
    "demo": _generated("demo"),
    "smoke": _generated("smoke"),
    "tiny": _from_root("tiny", _TINY),
    "medium": _from_root("", _MEDIUM),
    "cafa5": _from_root("cafa5", _CAFA5),
    "cafa6": _from_root("cafa6", _CAFA6),
    "files": _nothing,
}
"""Name -> function of the cache folder that gives `data.*` keys (without prefix) and their files."""
