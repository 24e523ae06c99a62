"""A finished model reaches the Hub whole, private and with an honest card; the real client talks to a stub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from fakes.finished_run import BUNDLE, make_finished_run
from fakes.hub import running_hub
from huggingface_hub import HfApi, constants, snapshot_download

from services.train.artifact_manifests import write_artifact_manifests
from services.train.cli_tools import add_publish
from services.train.model_card import model_card
from services.train.publish import CARD, git_blob_id, publish
from shared.config import Config
from shared.edge import Parser, main
from shared.errors import (
    GowhyError,
    IntegrityError,
    MissingInput,
    NotPermitted,
    ServiceUnavailable,
    TryAgain,
    UsageError,
)
from shared.manifest.artifact import read_artifact_manifest

# How the Hub's client calls its own HTTP client is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO, TOKEN = "tester/model", "hf_very_secret"


@pytest.fixture
def hub(monkeypatch):
    with running_hub(monkeypatch, TOKEN) as handler:
        yield handler


@pytest.fixture
def run(tmp_path):
    """The manifest of a finished run whose bundle says what a card needs."""
    return make_run(tmp_path / "run")


def make_run(folder, **options):
    make_finished_run(folder, **options)
    metadata = {
        "terms": {"MF": ["GO:1", "GO:2"], "BP": [], "CC": ["GO:3"]},
        "train_config": {"level1": {"models": ["cnn"]}},
    }
    data = json.dumps(metadata).encode()
    (folder / "model_metadata.json").write_bytes(data)
    rehash(folder, "model_metadata.json")
    manifest = rehash_run(folder)
    write_artifact_manifests(folder, manifest, Config())
    return folder / "manifest.json"


def rehash(folder, name) -> None:
    path = folder / "model_manifest.json"
    document, data = json.loads(path.read_bytes()), (folder / name).read_bytes()
    document["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    path.write_text(json.dumps(document))


def rehash_run(folder):
    """Bring the manifest's hashes up to what is in the folder."""
    from shared.manifest import load_manifest

    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    for output in (o for stage in document["stages"] for o in stage["outputs"]):
        data = (folder / output["path"]).read_bytes()
        output.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    document["model"]["sha256"] = hashlib.sha256((folder / "model_manifest.json").read_bytes()).hexdigest()
    path.write_text(json.dumps(document))
    return load_manifest(path)


def held(hub) -> dict[str, bytes]:
    files = hub.repositories[REPO]["commits"][-1]["files"]
    return {name: hub.lfs[f["sha256"]] if "sha256" in f else f["data"] for name, f in files.items()}


def test_the_bundle_and_the_card_arrive_in_one_commit(hub, run) -> None:
    done = publish(run, REPO)
    files = held(hub)
    assert set(files) == {*BUNDLE, "model_manifest.json", CARD}
    assert {name: data for name, data in files.items() if name != CARD} == {
        name: (run.parent / name).read_bytes() for name in (*BUNDLE, "model_manifest.json")
    }
    assert files[CARD].decode() == done.card
    assert len(hub.repositories[REPO]["commits"]) == 2  # the empty one of creation, and ours
    assert hub.repositories[REPO]["private"] is True
    assert done.changed
    assert done.url == f"{constants.ENDPOINT}/{REPO}/tree/{hub.repositories[REPO]['commits'][-1]['oid']}"
    assert read_artifact_manifest(run.parent / "models").huggingface_url == done.url


def test_what_was_published_comes_back_byte_for_byte(hub, run, tmp_path) -> None:
    publish(run, REPO)
    folder = Path(snapshot_download(REPO, endpoint=constants.ENDPOINT, local_dir=tmp_path / "hub"))
    for name in (*BUNDLE, "model_manifest.json"):
        assert (folder / name).read_bytes() == (run.parent / name).read_bytes()


def test_an_unchanged_model_moves_no_bytes_and_makes_no_commit(hub, run) -> None:
    first = publish(run, REPO)
    hub.log.clear()
    again = publish(run, REPO)
    assert (again.commit, again.changed) == (first.commit, False)
    assert [entry for entry in hub.log if entry[0] == "PUT"] == []
    assert len(hub.repositories[REPO]["commits"]) == 2


def test_a_new_model_replaces_the_old_one_and_what_only_the_old_one_had(hub, run, tmp_path) -> None:
    publish(run, REPO)
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.md", repo_id=REPO)
    HfApi().upload_file(path_or_fileobj=b"old", path_in_repo="model_reference.npz", repo_id=REPO)
    other = make_run(tmp_path / "other", seed=3)
    assert publish(other, REPO).changed
    files = held(hub)
    assert files["model.pth"] == (other.parent / "model.pth").read_bytes()
    assert files["notes.md"] == b"mine"
    assert "model_reference.npz" not in files


def test_private_is_checked_before_anything_is_sent(hub, run) -> None:
    HfApi().create_repo(REPO, private=False)
    with pytest.raises(NotPermitted, match="public"):
        publish(run, REPO)
    assert held(hub) == {}
    assert publish(run, REPO, private=False).changed


def test_a_dry_run_sends_nothing(hub, run) -> None:
    done = publish(run, REPO, dry_run=True)
    assert (hub.log, done.url, done.changed) == ([], None, False)
    assert done.files["model.pth"] == BUNDLE["model.pth"]


@pytest.mark.parametrize(
    ("part", "status", "error"),
    [
        ("/repos/create", 401, NotPermitted),
        ("/repos/create", 403, NotPermitted),
        ("/preupload/", 429, TryAgain),
        ("/lfs/", 400, ServiceUnavailable),
        ("/commit/", 412, TryAgain),
        ("/commit/", 500, ServiceUnavailable),
        ("/tree/", 404, NotPermitted),
    ],
)
def test_a_fault_is_named_leaves_no_half_model_and_a_retry_succeeds(
    hub, run, part, status, error, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    big = run.parent / "model.pth"  # above the size at which the stub wants LFS
    big.write_bytes(b"w" * 20_000)
    rehash(run.parent, "model.pth")
    rehash_run(run.parent)
    hub.refusing = (part, status)
    with pytest.raises(GowhyError) as caught:
        publish(run, REPO)
    assert type(caught.value) is error
    assert TOKEN not in str(caught.value) + "".join(capsys.readouterr())
    assert part == "/tree/" or REPO not in hub.repositories or held(hub) == {}
    assert read_artifact_manifest(run.parent / "models").huggingface_url is None
    hub.refusing = None
    publish(run, REPO)
    assert held(hub)["model.pth"] == b"w" * 20_000
    assert read_artifact_manifest(run.parent / "models").huggingface_url


def test_somebody_else_s_commit_in_between_is_not_overwritten(hub, run, monkeypatch) -> None:
    publish(run, REPO)
    stale = HfApi().model_info(REPO).sha
    HfApi().upload_file(path_or_fileobj=b"theirs", path_in_repo="model.pth", repo_id=REPO)
    monkeypatch.setattr("services.train.publish.prepare_repository", lambda *a, **k: stale)
    with pytest.raises(TryAgain):
        publish(run, REPO)
    assert held(hub)["model.pth"] == b"theirs"


def test_what_the_hub_holds_is_compared_with_what_was_sent(hub, run, monkeypatch) -> None:
    monkeypatch.setattr("services.train.publish.git_blob_id", lambda data: "0" * 40)
    with pytest.raises(IntegrityError, match="not what was sent"):
        publish(run, REPO)


def test_git_blob_id_is_git_s() -> None:
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # printf 'hello\n' | git hash-object


def test_nobody_home_wrong_name_no_token_and_a_changed_run(hub, run, monkeypatch, tmp_path) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        publish(run, "a/b/c")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ServiceUnavailable, match="does not answer"):
        publish(run, REPO)
    (run.parent / "models/manifest.json").unlink()
    with pytest.raises(MissingInput):
        publish(run, REPO)
    (run.parent / "model.pth").write_bytes(b"changed")
    with pytest.raises(IntegrityError, match=r"model\.pth"):
        publish(run, REPO)


def test_the_card_says_what_the_manifest_says(tmp_path) -> None:
    manifest = make_finished_run(tmp_path)
    card = model_card(manifest, repo=REPO, terms=3, models=["cnn", "mlp"], license_id="cc-by-4.0")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["license"], front["library_name"]) == ("cc-by-4.0", "gowhy")
    for words in (
        "random weights** (esm2_tiny)",
        "proteins are generated",
        "weights: random-init(0)",
        "3 terms",
        "level-1 models (cnn, mlp)",
        "40 train and 9 test proteins",
        "| fmax_w | 0.500 | 0.500 | 0.500 |",
        "| fmax_w | 0.250 | 0.250 | 0.250 |",
        "| naive fmax_w | 0.100 | 0.100 | 0.100 |",
        "| naive fmax_w | – | – | – |",
        "| data.obo | `" + "a" * 64,
        "t5 absent",
        "cc-by-4.0, chosen by whoever published",
    ):
        assert words in card, words
    assert card == model_card(manifest, repo=REPO, terms=3, models=["cnn", "mlp"], license_id="cc-by-4.0")


def test_a_card_without_truth_and_with_real_weights(tmp_path) -> None:
    manifest = make_finished_run(tmp_path, weights="hub:facebook/esm2_t33_650M_UR50D", metrics={"val": {}, "test": {}})
    manifest.dataset.name = "medium"
    card = model_card(manifest, repo=REPO, terms=3, models=["cnn"], license_id="apache-2.0")
    assert "random weights" not in card
    assert "generated" not in card
    assert card.count("Not measured") == 2


def test_the_verb_publishes_and_says_where(hub, run, capsys) -> None:
    parser = Parser()
    add_publish(parser.add_subparsers(dest="verb", required=True, parser_class=Parser))
    arguments = ["publish", "--manifest", str(run), "--repo", REPO]
    assert main(parser, [*arguments, "--dry-run"]) == 0
    assert "model.pth  4000 bytes" in capsys.readouterr().out
    assert main(parser, [*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] is True
    assert main(parser, arguments) == 0
    assert capsys.readouterr().out.startswith("unchanged: http://127.0.0.1")
    assert main(parser, ["publish", "--manifest", str(run.parent / "none.json"), "--repo", REPO]) == 66
