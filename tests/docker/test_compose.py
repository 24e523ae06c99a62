from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.docker.stack import REPOSITORY, docker

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]
PIP_LOCKS = {"train": "envs/pip/train.txt", "xai-worker": "envs/pip/xai.txt"}


def test_up_trains_hands_over_and_leaves_the_report(stack) -> None:
    done = stack.up()
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    manifest = stack.manifest()
    assert manifest["status"] == "complete"
    lock = manifest["env_lock"]
    assert (lock["policy"], lock["verified"], lock["forced"], lock["differences"]) == ("strict", True, False, [])
    (result,) = stack.results()
    assert result["status"] == "complete"
    (page,) = stack.out.glob("smoke-*/xai/*/index.html")
    assert "<html" in page.read_text()
    for service in ("train", "xai-worker", "submit"):
        found = stack.inspect(service)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert found["Config"]["User"] == "10001:10001", service
    # Again: every stage is skipped, the job is found, nothing is published twice.
    again = stack.up()
    assert again.returncode == 0, (again.stdout + again.stderr)[-4000:]
    assert len(stack.results()) == 1


def test_each_service_killed_and_started_again_finishes(stack) -> None:
    stack.environment["COMPOSE_OVERRIDES"] = "tests/docker/quick.yaml"
    stack.compose("up", "--no-build", "--detach", "train", "xai-worker")
    stack.wait(lambda: list(stack.out.glob("smoke-*/features/train_embeds_esm2.npy")))
    docker("kill", stack.container("train"))
    assert not list(stack.out.glob("latest/manifest.json")) or stack.manifest()["status"] == "partial"
    stack.compose("up", "--no-build", "--detach")
    # The job's staging folder: an attempt has begun and has not ended.
    stack.wait(lambda: list(stack.out.glob("smoke-*/xai")))
    docker("kill", stack.container("xai-worker"))
    done = stack.up()
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert stack.manifest()["status"] == "complete"
    assert [result["status"] for result in stack.results()] == ["complete"]


@pytest.mark.parametrize("service", ["train", "xai-worker"])
def test_an_image_holds_what_it_needs_and_says_what_it_is(stack, service) -> None:
    image = json.loads(docker("image", "inspect", f"gowhy-{service}:local").stdout)[0]
    labels = image["Config"]["Labels"]
    locked = subprocess.run(
        ["sha256sum", PIP_LOCKS[service]], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert labels["gowhy.env.lock.sha256"] == locked.stdout.split()[0]
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert labels["org.opencontainers.image.revision"] == revision.stdout.strip()
    assert image["Config"]["User"] == "10001:10001"
    tools = "for t in apt apt-get dpkg pip pip3 conda micromamba npm node gcc cc g++ make; do command -v $t; done; true"
    found = docker("run", "--rm", "--network=none", "--entrypoint", "/bin/sh", f"gowhy-{service}:local", "-c", tools)
    assert found.stdout == ""


def test_a_wrong_hash_stops_the_build(stack) -> None:
    for service, variable in (("train", "TRAIN_LOCK_SHA256"), ("xai-worker", "XAI_LOCK_SHA256")):
        done = stack.compose("build", service, check=False, GOWHY_TAG="wrong", **{variable: "0" * 64})
        assert done.returncode != 0
        assert "label says lock 000000000000" in done.stdout + done.stderr


def test_another_conda_lock_than_the_given_hash_stops_the_build(stack, images) -> None:
    """The conda stage compares before it installs, so this needs neither the channel nor micromamba."""
    base = images["RUNTIME_IMAGE"]
    for service, variable in (("train", "TRAIN_LOCK_SHA256"), ("xai-worker", "XAI_LOCK_SHA256")):
        done = stack.compose(
            "build", service, check=False, LOCAL_ENV="", MICROMAMBA_IMAGE=base, UI_IMAGE="gowhy-ui:local",
            GOWHY_TAG="wrong", **{variable: "0" * 64},
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "/tmp/env-lock.yml: FAILED" in said, said[-2000:]
        assert "micromamba: not found" not in said


@pytest.mark.parametrize(
    ("service", "verb"), [("train", ("run", "--config", "configs/smoke.yaml")), ("xai-worker", ("serve",))]
)
def test_a_tampered_lock_stops_both_services(stack, service, verb) -> None:
    name = PIP_LOCKS[service]
    tampered = stack.folder / "tampered.txt"
    text = (REPOSITORY / name).read_text()
    assert "\nnumpy==" in text
    tampered.write_text(text.replace("\nnumpy==", "\nnumpy==0."))
    mount = f"{tampered}:/app/{name}:ro"
    done = docker(
        "run", "--rm", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/app/out:mode=1777", "--network=none", "-v", mount, f"gowhy-{service}:local", *verb,
        check=False,
    )  # fmt: skip
    assert done.returncode == 79, done.stderr
    assert "changed since this environment was made" in done.stderr
    assert "numpy" in done.stderr
    assert "--force" in done.stderr


def test_a_missing_and_an_empty_token_stop_the_worker(stack) -> None:
    stack.token.unlink()
    done = stack.up()
    assert done.returncode != 0
    assert str(stack.token) in done.stdout + done.stderr
    if stack.token.is_dir():  # some engines make a folder where a mounted file is missing
        stack.token.rmdir()
    stack.compose("down", "--volumes", check=False)
    stack.token.write_text("")
    done = stack.compose("run", "--rm", "xai-worker", check=False)
    assert done.returncode not in (0, 70), done.stderr
    assert "token" in (done.stdout + done.stderr).lower()


def test_an_unwritable_volume_stops_train(stack) -> None:
    os.chown(stack.out, 0, 0) if os.getuid() == 0 else stack.out.chmod(0o555)
    stack.out.chmod(0o555)
    done = stack.compose("up", "--no-build", "--exit-code-from", "train", "train", check=False)
    assert done.returncode == 73, done.stdout + done.stderr
    said = stack.compose("logs", "--no-color", "train").stdout
    assert "error:" in said
    assert "out" in said
    assert "Traceback" not in said
