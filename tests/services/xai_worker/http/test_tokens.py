"""Tokens: kept hashed, exchanged while the service runs, refused when wrong or past their end."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.xai_worker.app import create_app
from services.xai_worker.http import tokens as module
from services.xai_worker.http.tokens import SCOPES, Tokens, new_token, parse_line, sha256_of
from services.xai_worker.http_settings import HttpSettings
from shared.errors import ConfigError, MissingInput
from tests.fakes.memory_queue import MemoryQueue
from tests.fakes.published_run import PublishedRun
from tests.services.xai_worker.http.conftest import Keys
from tests.services.xai_worker.http.test_submit import URL, refused

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_line_is_what_it_was_made_from() -> None:
    plain, token = new_token("ci", ("read", "submit"), NOW)
    assert parse_line(token.line(), where="test") == token
    assert token.sha256 == sha256_of(plain)
    assert plain not in token.line()


@pytest.mark.parametrize(
    "line",
    ["", "ci read never", f"ci read never {'g' * 64}", f"ci fly never {'0' * 64}", f"ci read soon {'0' * 64}",
     f"../ci read never {'0' * 64}", f"ci read never {'0' * 64} more"],
)  # fmt: skip
def test_a_wrong_line_is_refused_without_being_repeated(line: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_line(line, where="tokens, line 1")
    assert "0" * 64 not in str(error.value)


def test_a_token_ends() -> None:
    plain, token = new_token("ci", ("read",), NOW)
    known = Tokens([token])
    assert known.find(plain, NOW - timedelta(seconds=1)) == token
    assert known.find(plain, NOW) is None
    assert known.find(plain + "x", NOW - timedelta(days=1)) is None


def test_tokens_are_exchanged_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RELOAD_S", 0.0)
    (old, old_line), (new, new_line) = new_token("ci", ("read",), None), new_token("ci", ("read",), None)
    file = tmp_path / "tokens"
    file.write_text(f"# ours\n{old_line.line()}  # old\n")
    known = Tokens(file=file)
    assert known.find(old)
    assert not known.find(new)
    file.write_text(f"{old_line.line()}\n{new_line.line()}\n")
    assert known.find(old)
    assert known.find(new)
    file.write_text(f"{new_line.line()}\n")
    assert not known.find(old)
    file.write_text("half a li")  # an editor at work: the last good file holds
    assert known.find(new)


def test_tokens_come_from_files_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s" * 32 + "\n")
    environment = {"GOWHY_XAI_TOKEN": "e" * 32}
    known = Tokens.from_settings(HttpSettings(token_file=tmp_path / "secret"), environment)
    assert environment == {}  # not handed to the processes of jobs
    assert known.find("s" * 32)
    assert known.find("e" * 32)
    assert "e" * 32 not in repr(known.current())
    with pytest.raises(ConfigError, match="16"):
        Tokens.from_settings(HttpSettings(), {"GOWHY_XAI_TOKEN": "short"})
    with pytest.raises(MissingInput):
        Tokens.from_settings(HttpSettings(tokens_file=tmp_path / "absent"), {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "worker.example"])
def test_a_network_is_not_served_without_a_token(host: str, run: PublishedRun, keys: Keys) -> None:
    with pytest.raises(ConfigError, match="no token"):
        create_app(MemoryQueue(), HttpSettings(host=host, out=run.out), Tokens())
    create_app(MemoryQueue(), HttpSettings(host=host, out=run.out), Tokens(keys.known))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_is_served_without_one(host: str, run: PublishedRun) -> None:
    app = create_app(MemoryQueue(), HttpSettings(host=host, out=run.out), Tokens())
    assert TestClient(app).get(URL).status_code == 200


@pytest.mark.parametrize(
    "given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic bGFiOng=", "Bearer ü", "bearer a b", "Bearer \x7f"]
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", URL), ("POST", URL), ("GET", "/v1/info"), ("GET", f"{URL}/x/events")]
)
def test_wrong_tokens_are_401(
    app_with,
    queue: MemoryQueue,
    given: str | None,
    method: str,
    path: str,  # type: ignore[no-untyped-def]
) -> None:
    client = app_with()
    client.headers.pop("Authorization")
    headers = {} if given is None else {"Authorization": given.encode()}
    response = client.request(method, path, headers=headers)
    refused(response, 401, "unauthorized")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert not queue.jobs


def test_an_expired_token_is_401(run: PublishedRun, queue: MemoryQueue) -> None:
    plain, token = new_token("late", SCOPES, datetime.now(UTC) - timedelta(seconds=1))
    client = TestClient(create_app(queue, HttpSettings(out=run.out), Tokens([token])))
    refused(
        client.post(URL, json={"run_id": run.run_id}, headers={"Authorization": f"Bearer {plain}"}), 401, "unauthorized"
    )
    assert not queue.jobs


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "evil.example:8080"}, {"Origin": "https://evil.example"}, {"Origin": "null"},
     {"Host": ""}],
)  # fmt: skip
def test_without_a_token_no_other_site_may_ask(run: PublishedRun, queue: MemoryQueue, headers: dict[str, str]) -> None:
    client = TestClient(create_app(queue, HttpSettings(out=run.out), Tokens()), base_url="http://localhost:8080")
    body = run.path.read_bytes()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    refused(client.post(URL, content=body, headers={**form, **headers}), 403, "forbidden")
    assert not queue.jobs
    own = {"Origin": "http://localhost:8080"}
    assert client.post(URL, content=body, headers={**form, **own}).status_code == 202


def test_settings_name_the_wrong_variable() -> None:
    with pytest.raises(ConfigError, match="GOWHY_XAI_PORT"):
        HttpSettings.from_environment({"GOWHY_XAI_PORT": "many"})
    assert HttpSettings.from_environment({"GOWHY_XAI_PORT": "9000"}, host="::1").port == 9000
    assert os.environ.get("GOWHY_XAI_PORT") is None
