"""The Hub's stand-in for a test, with a status that it gives instead of an answer to one operation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from fakes import hub_stub
from huggingface_hub import constants


class Hub(hub_stub.H):
    fault: tuple[str, int] | None = None  # part of the path, status

    def answer(self):
        if self.fault is not None and self.fault[0] in self.path:
            self.body()
            return self.err(self.fault[1], "injected")
        return self.handle_any()

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815 - http.server's names


@contextmanager
def running_hub(monkeypatch, token: str = "hf_x") -> Iterator[type[Hub]]:
    """Serve, and point the real client at it; the handler's class holds repositories, objects and the log."""
    handler = type("OneHub", (Hub,), {"repos": {}, "lfs": {}, "log": [], "fault": None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"  # made from ENDPOINT when it is imported
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setenv("HF_TOKEN", token)
    try:
        yield handler
    finally:
        server.shutdown()
        server.server_close()
