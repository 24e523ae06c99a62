"""Publish a finished run's model on the Hugging Face Hub: the bundle and a model card, in one commit.

Source: huggingface_hub.HfApi (create_repo, model_info, create_commit with parent_commit, list_repo_tree), 2.4.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.train.cli_tools import DEFAULT_LICENSE
from services.train.model_card import model_card
from shared.digests import sha256_bytes
from shared.errors import GowhyError, IntegrityError, NotPermitted, ServiceUnavailable, TryAgain, UsageError
from shared.manifest import Manifest, load_manifest
from shared.manifest.artifact import read_artifact_manifest, write_artifact_manifest
from shared.models import bundle as layout

CARD = "README.md"
# Names that a bundle may hold: those that another bundle left in the repository are taken away.
BUNDLE_NAMES = frozenset(
    {
        layout.MANIFEST,
        layout.MODEL,
        layout.METADATA,
        layout.MEMBERS_FILE,
        layout.ONTOLOGY,
        layout.FASTA,
        layout.REFERENCE,
        layout.REFERENCE_GZIP,
    }
)


@dataclass(frozen=True, slots=True)
class Published:
    """What a publication did; `commit` and `url` are None for a dry run, `changed` says whether it made a commit."""

    repo: str
    private: bool
    files: dict[str, int]  # name -> bytes
    url: str | None
    commit: str | None
    changed: bool
    card: str


def publish(
    manifest_path: Path,
    repo: str,
    *,
    private: bool = True,
    license_id: str = DEFAULT_LICENSE,
    dry_run: bool = False,
    api: Any = None,
) -> Published:
    """Publish the model of a complete run.

    Args:
        manifest_path: the run's manifest.json; every file is hashed before it is sent.
        repo: `owner/name`, created where absent.
        private: what the repository must be; checked with the Hub before anything is sent.
        license_id: of the weights, as the Hub spells it.
        dry_run: only say what would be sent.
        api: a `huggingface_hub.HfApi`; None makes one, which reads HF_TOKEN and HF_ENDPOINT itself.

    Raises:
        NotPermitted: no token, one without the right, or a public repository where a private one is wanted.
        TryAgain: somebody else committed meanwhile, or the Hub is busy.
        ServiceUnavailable: the Hub does not answer.
        IntegrityError: the run or what the Hub holds afterwards is not what it should be.
    """
    manifest = load_manifest(manifest_path)
    folder = manifest_path.parent
    record = read_artifact_manifest(folder / "models")
    files = bundle_files(manifest, folder)
    contents: dict[str, Path | bytes] = dict(files)
    metadata = json.loads((folder / layout.METADATA).read_bytes())
    card = model_card(
        manifest,
        repo=repo,
        terms=sum(len(terms) for terms in metadata["terms"].values()),
        models=list(metadata["train_config"]["level1"]["models"]),
        license_id=license_id,
    )
    contents[CARD] = card.encode()
    sizes = {name: path.stat().st_size for name, path in files.items()} | {CARD: len(card.encode())}
    if dry_run:
        return Published(repo, private, sizes, None, None, changed=False, card=card)
    with hub_errors(repo):
        if api is None:
            from huggingface_hub import HfApi  # noqa: PLC0415 - a second to load, which only publishing should cost

            api = HfApi()
        before = prepare_repository(api, repo, private=private)
        commit = send(api, repo, contents, before, f"Model of run {manifest.run_id}")
        check_stored(api, repo, commit, contents)
    url = f"{api.endpoint}/{repo}/tree/{commit}"
    write_artifact_manifest(folder / "models", record.model_copy(update={"huggingface_url": url}))
    return Published(repo, private, sizes, url, commit, changed=commit != before, card=card)


def bundle_files(manifest: Manifest, folder: Path) -> dict[str, Path]:
    """Name -> path of the bundle's files, each checked against the bundle's manifest, itself among them.

    Raises:
        IntegrityError: the run has no bundle, or a file is not what its hash says.
    """
    if manifest.model is None:
        raise IntegrityError("the run has no model bundle", where=str(folder), remedy="Run the pipeline to its end")
    bundle = layout.read_bundle_manifest(folder / manifest.model.path)
    names = sorted(bundle.digests or {})
    return {name: bundle.path(name) for name in names} | {layout.MANIFEST: folder / manifest.model.path}


def prepare_repository(api: Any, repo: str, *, private: bool) -> str:
    """Create the repository where it is absent; returns its newest commit.

    Raises:
        NotPermitted: it is public, and the model is not to be.
    """
    api.create_repo(repo, private=private, exist_ok=True)
    info = api.model_info(repo)
    if private and not info.private:
        raise NotPermitted(
            f"{repo} is public",
            where="the Hub",
            remedy="Give --public if everyone may have the model, or another --repo",
        )
    return str(info.sha)


def send(api: Any, repo: str, files: Mapping[str, Path | bytes], before: str, message: str) -> str:
    """One commit on top of `before` with every file that changed; returns the newest commit's id."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # noqa: PLC0415

    held = set(api.list_repo_files(repo, revision=before))
    operations: list[Any] = [CommitOperationAdd(name, content) for name, content in files.items()]
    operations += [CommitOperationDelete(name) for name in sorted(held & BUNDLE_NAMES - set(files))]
    return str(api.create_commit(repo, operations, commit_message=message, parent_commit=before).oid)


def check_stored(api: Any, repo: str, commit: str, files: Mapping[str, Path | bytes]) -> None:
    """Compare what the Hub says it holds with what was sent.

    Raises:
        IntegrityError: a file is missing there or has another hash.
    """
    held = {item.path: item for item in api.list_repo_tree(repo, recursive=True, revision=commit)}
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        item = held.get(name)
        # Small text files are git blobs, known by git's own hash; all others by their sha256.
        same = item is not None and (
            item.lfs.sha256 == sha256_bytes(data) if item.lfs else item.blob_id == git_blob_id(data)
        )
        if not same:
            raise IntegrityError(f"{name} is not what was sent", where=f"{repo} at {commit}", remedy="Publish again")


def git_blob_id(data: bytes) -> str:
    """What git calls a file with these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Name what the Hub's client raises; no message holds the token."""
    try:
        from huggingface_hub import errors  # noqa: PLC0415 - only publishing needs it
    except ImportError as error:
        raise ServiceUnavailable("huggingface_hub is not installed", remedy="Run make setup") from error
    # The client's transport errors have no name of their own in it, and another base in each major version.
    transport: tuple[type[BaseException], ...] = (OSError, errors.HfHubHTTPError.__bases__[0])
    try:
        try:
            yield
        except RuntimeError as error:
            # A failed upload of a large file comes wrapped.
            raise error.__cause__ if isinstance(error.__cause__, transport) else error from None
    except GowhyError:
        raise
    except errors.HFValidationError as error:
        raise UsageError(f"{repo!r} is no repository name", where="--repo", remedy="Give OWNER/NAME") from error
    except errors.LocalTokenNotFoundError as error:
        raise NotPermitted("no token for the Hub", where="HF_TOKEN", remedy="Export HF_TOKEN=<write token>") from error
    except errors.HfHubHTTPError as error:
        raise from_status(error.response.status_code, repo, str(error).splitlines()[0]) from error
    except transport as error:
        raise ServiceUnavailable(
            f"the Hub does not answer: {type(error).__name__}", where=repo, remedy="Check the network and HF_ENDPOINT"
        ) from error


def from_status(status: int, repo: str, words: str) -> GowhyError:
    """An HTTP status of the Hub as one of our errors."""
    if status in (401, 403, 404):
        remedy = "Check HF_TOKEN (it needs write access) and the owner in --repo"
        return NotPermitted(f"the Hub refuses: {words}", where=repo, remedy=remedy)
    if status in (409, 412, 429):
        return TryAgain(f"the Hub is busy or changed meanwhile: {words}", where=repo, remedy="Publish again")
    return ServiceUnavailable(f"the Hub answered {status}: {words}", where=repo, remedy="Publish again later")
