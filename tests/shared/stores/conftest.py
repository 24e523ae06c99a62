"""Loopback servers for the remote stores; each lasts for the whole session, a store in it for one test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fakes.hf_stub import HubStub
from fakes.kaggle_stub import KEY, USER, KaggleStub
from fakes.s3_stub import CREDENTIALS, S3Stub


@pytest.fixture(scope="session")
def _scratch_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The clients read and write below HOME, some of them when they are imported."""
    home = tmp_path_factory.mktemp("home")
    values = {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "HF_TOKEN": "hf_x",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "KAGGLE_CONFIG_DIR": str(home / "kaggle"),
        "KAGGLE_USERNAME": USER,
        "KAGGLE_KEY": KEY,
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        **CREDENTIALS,
    }
    before = dict(os.environ)
    os.environ.update(values)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def kaggle_stub(_scratch_home: None) -> Iterator[KaggleStub]:
    from kaggle.api.kaggle_api_extended import KaggleApi
    from kagglesdk import kaggle_env

    with KaggleStub() as stub, pytest.MonkeyPatch.context() as patch:
        patch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, stub.url)
        patch.setattr(KaggleApi, "args", ["--local"])
        yield stub


@pytest.fixture(scope="session")
def hub_stub(_scratch_home: None) -> Iterator[HubStub]:
    from huggingface_hub import constants

    with HubStub() as stub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield stub


@pytest.fixture(scope="session")
def s3_stub(_scratch_home: None) -> Iterator[S3Stub]:
    with S3Stub() as stub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", stub.url)
        yield stub


@pytest.fixture(autouse=True)
def _no_fault_outlives_its_test(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"kaggle_stub", "hub_stub", "s3_stub"} & set(request.fixturenames):
        stub = request.getfixturevalue(name)
        faults = stub.faults if name == "s3_stub" else stub.state.faults
        faults.waiting.clear()
        faults.taken.clear()
        if name == "kaggle_stub":
            stub.state.processing = 0.0
