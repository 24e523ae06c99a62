from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared import env
from shared.digests import sha256_file
from shared.errors import EnvMismatch, IntegrityError, UsageError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path):
    """An environment folder and an envs folder, and a function that locks given versions."""

    def lock(text: str, kind: str = "pip") -> dict[str, Path]:
        envs, prefix = tmp_path / "envs", tmp_path / "prefix"
        path = envs / ("pip/x.txt" if kind == "pip" else "x.lock.yml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        record = prefix / "share/gowhy/env_lock.json"
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps({"name": "x", "kind": kind, "sha256": sha256_file(path)}))
        return {"prefix": prefix, "envs": envs}

    return lock


def installed(name: str) -> str:
    return (env.installed_version(name) or "").partition("+")[0]


def test_a_matching_environment_is_verified_and_silent(place) -> None:
    where = place(f"numpy=={installed('numpy')} \\\n    --hash=sha256:00\n# via x\nPyYAML=={installed('pyyaml')}\n")
    record, message = env.enforce("strict", **where)
    assert (record.verified, record.forced, message) == (True, False, None)
    assert record.name == "x"


def test_each_policy_on_a_difference(place) -> None:
    where = place("numpy==0.0.1\nnot-installed-package==1.0\n")
    with pytest.raises(EnvMismatch, match="numpy") as caught:
        env.enforce("strict", **where)
    assert caught.value.exit_code == 79
    assert "not-installed-package" in str(caught.value)
    forced, message = env.enforce("strict", force=True, **where)
    assert (forced.forced, forced.verified, len(forced.differences)) == (True, False, 2)
    assert message
    warned, message = env.enforce("warn", **where)
    assert (warned.forced, warned.verified) == (False, False)
    assert "locked 0.0.1" in message
    ignored, message = env.enforce("ignore", **where)
    assert (ignored.verified, message, len(ignored.differences)) == (False, None, 2)


def test_a_lock_that_changed_after_the_environment_was_made(place) -> None:
    where = place(f"numpy=={installed('numpy')}\n")
    (where["envs"] / "pip/x.txt").write_text(f"# edited\nnumpy=={installed('numpy')}\n")
    with pytest.raises(EnvMismatch, match="changed since"):
        env.enforce("strict", **where)


def test_no_record_and_a_damaged_record(tmp_path) -> None:
    with pytest.raises(EnvMismatch, match="no lock is recorded"):
        env.enforce("strict", prefix=tmp_path)
    damaged = tmp_path / "share/gowhy/env_lock.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    with pytest.raises(IntegrityError):
        env.find_lock(tmp_path)


def conda_lock(**packages: str) -> str:
    """A conda-lock file; each package is `version=build sha256`."""
    lines = ["version: 1", "package:"]
    for name, text in packages.items():
        build, _, sha256 = text.partition(" ")
        version, _, build = build.partition("=")
        url = f"https://channel/linux-64/{name}-{version}-{build}.conda"
        lines.append(
            f"- {{name: {name}, version: {version}, manager: conda, platform: linux-64, category: main,"
            f" url: '{url}', hash: {{sha256: '{sha256}'}}}}"
        )
    url = "https://channel/noarch/pytest-9.0.0-pyh_0.conda"
    lines.append(
        "- {name: pytest, version: 9.0.0, manager: conda, platform: linux-64, category: dev,"
        f" url: '{url}', hash: {{sha256: x}}}}"
    )
    return "\n".join(lines) + "\n"


def install(where: dict[str, Path], name: str, version: str, build: str, sha256: str) -> None:
    meta = where["prefix"] / "conda-meta"
    meta.mkdir(exist_ok=True)
    record = {"name": name, "version": version, "build": build, "sha256": sha256}
    (meta / f"{name}.json").write_text(json.dumps(record))


def test_a_conda_environment_is_compared_with_its_metadata(place) -> None:
    where = place(
        conda_lock(pytorch="2.10.0=cpu_0 aa", numpy="2.3.5=py_0 bb", scipy="1.0.0=py_0 cc", gone="1=0 dd"), "conda"
    )
    install(where, "pytorch", "2.10.0", "cuda_0", "aa")
    install(where, "numpy", "2.3.4", "py_0", "bb")
    install(where, "scipy", "1.0.0", "py_0", "ee")
    install(where, "added", "7", "h_0", "ff")
    record, _ = env.enforce("warn", **where)
    assert record.differences == [
        {"name": "added", "locked": "-", "installed": "7=h_0"},
        {"name": "gone", "locked": "1=0", "installed": None},
        {"name": "numpy", "locked": "2.3.5=py_0", "installed": "2.3.4=py_0"},
        {"name": "pytorch", "locked": "2.10.0=cpu_0", "installed": "2.10.0=cuda_0"},
        {"name": "scipy", "locked": "sha256 cc", "installed": "sha256 ee"},
    ]


def test_what_pip_added_to_a_conda_environment_is_compared_too(place) -> None:
    where = place(conda_lock(numpy="2.3.5=py_0 bb"), "conda")
    install(where, "numpy", "2.3.5", "py_0", "bb")
    extra = where["envs"] / "pip/y.txt"
    extra.parent.mkdir()
    extra.write_text(f"numpy==9.9.9\npyyaml=={installed('pyyaml')}\npydantic==0.1\n")
    path = where["prefix"] / "share/gowhy/env_lock.json"
    record = json.loads(path.read_text()) | {"extra": {"name": "y", "sha256": sha256_file(extra)}}
    path.write_text(json.dumps(record))
    checked, _ = env.enforce("warn", **where)
    assert [item["name"] for item in checked.differences] == ["pydantic"]
    extra.write_text(f"pyyaml=={installed('pyyaml')}\n")
    with pytest.raises(EnvMismatch, match=r"y\.txt changed since"):
        env.enforce("strict", **where)


def test_the_image_label_has_to_name_the_lock(place) -> None:
    where = place(f"numpy=={installed('numpy')}\n")
    sha256 = sha256_file(where["envs"] / "pip/x.txt")
    assert env.enforce("strict", environment={env.LABEL: sha256}, **where)[0].verified
    with pytest.raises(EnvMismatch, match="label says lock 000000000000") as caught:
        env.enforce("strict", environment={env.LABEL: "0" * 64}, **where)
    assert caught.value.exit_code == 79
    forced, _ = env.enforce("strict", force=True, environment={env.LABEL: "0" * 64}, **where)
    assert (forced.forced, forced.verified) == (True, False)


def test_every_shipped_conda_lock_can_be_read() -> None:
    paths = sorted((REPOSITORY / "envs").glob("*.lock.yml"))
    assert paths
    for path in paths:
        packages = env.locked_conda(path)
        assert {"pytorch", "numpy", "pandas"} <= set(packages)
        assert all(len(package.sha256 or "") == 64 and package.build for package in packages.values())


def test_a_file_that_is_no_conda_lock_is_named(tmp_path) -> None:
    damaged = tmp_path / "x.lock.yml"
    damaged.write_text("package: [3]\n")
    with pytest.raises(IntegrityError, match="not a conda-lock file"):
        env.locked_conda(damaged)


def test_the_policy_comes_from_the_argument_then_the_variable() -> None:
    assert env.chosen_policy("strict", {"GOWHY_ENV_POLICY": "ignore"}) == "strict"
    assert env.chosen_policy(None, {"GOWHY_ENV_POLICY": "ignore"}) == "ignore"
    assert env.chosen_policy(None, {}) == "warn"
    with pytest.raises(UsageError):
        env.chosen_policy(None, {"GOWHY_ENV_POLICY": "lax"})


def test_relevant_versions_leave_the_device_out() -> None:
    versions = env.relevant_versions()
    assert "+" not in versions["torch"]
    assert versions["python"] == "3.11"


def test_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "shared.env", "hash", "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)["packages_digest"]) == 64


@pytest.mark.parametrize("name", ["train", "xai", "dev"])
def test_requirement_files_are_closed_hashed_and_name_no_index(name) -> None:
    text = (REPOSITORY / "envs/pip" / f"{name}.txt").read_text()
    assert "://" not in text
    assert not [line for line in text.splitlines() if line.startswith("-")]
    pinned = [line for line in text.splitlines() if "==" in line and not line.lstrip().startswith("#")]
    assert len(pinned) > 50
    assert all("==" in line for line in pinned)
    blocks = text.count("--hash=sha256:")
    assert blocks >= len(pinned)
    assert "\ntorch==" not in text
