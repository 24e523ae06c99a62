"""The Hub's stand-in, with the real client of this process pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fakes.hf_stub import HubStub, State
from huggingface_hub import constants


@contextmanager
def running_hub(monkeypatch, token: str = "hf_x") -> Iterator[State]:
    """Serve; gives what the stand-in holds."""
    with HubStub() as stub:
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", stub.url)
        template = stub.url + "/{repo_id}/resolve/{revision}/{filename}"  # made from ENDPOINT when it is imported
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", token)
        yield stub.state
