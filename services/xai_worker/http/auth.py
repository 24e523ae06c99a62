"""Who asks, and what they may do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from services.xai_worker.http.problem import Problem
from services.xai_worker.http.tokens import SCOPES, Tokens
from services.xai_worker.http_settings import HttpSettings
from services.xai_worker.logs import note
from shared.errors import ConfigError

Scope = Literal["submit", "read", "cancel", "admin"]
LOCAL = "local"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="gowhy"'}
_BEARER = HTTPBearer(auto_error=False, description="python -m services.xai_worker token NAME makes one")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose request this is. Jobs belong to the name; only `admin` sees those of others."""

    name: str
    scopes: frozenset[str]

    @property
    def owner(self) -> str | None:
        """The only owner whose jobs this caller sees; None sees all."""
        return None if "admin" in self.scopes else self.name


def check_listening(settings: HttpSettings, tokens: Tokens) -> None:
    """Refuse to serve a network without a token.

    Raises:
        ConfigError: the address is not loopback and no token is set.
    """
    if not settings.loopback and not tokens:
        raise ConfigError(
            f"no token is set, and {settings.host} is reachable from other machines",
            where="GOWHY_XAI_HOST",
            remedy="Set GOWHY_XAI_TOKENS_FILE, GOWHY_XAI_TOKEN_FILE or GOWHY_XAI_TOKEN, or listen on 127.0.0.1",
        )


def require(scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """A dependency that gives the caller, or refuses with 401 or 403."""

    async def caller(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
    ) -> Caller:
        found = identify(request, None if credentials is None else credentials.credentials)
        if scope not in found.scopes and "admin" not in found.scopes:
            raise Problem("forbidden", f"The token lacks the scope {scope}")
        note(owner=found.name)
        return found

    return caller


def identify(request: Request, presented: str | None) -> Caller:
    """The caller behind a token; without any token set, whoever is on this machine.

    Raises:
        Problem: 401 for a missing, unknown or expired token; 403 for a page of another site.
    """
    tokens: Tokens = request.app.state.tokens
    if not tokens:
        _same_machine(request)
        return Caller(LOCAL, frozenset(SCOPES))
    if presented is None:
        raise Problem("unauthorized", "Send Authorization: Bearer TOKEN", headers=CHALLENGE)
    token = tokens.find(presented)
    if token is None:
        refused = {"WWW-Authenticate": CHALLENGE["WWW-Authenticate"] + ', error="invalid_token"'}
        raise Problem("unauthorized", "The token is unknown or expired", headers=refused)
    return Caller(token.name, token.scopes)


def _same_machine(request: Request) -> None:
    """Without a token a browser is the danger: a page of any site can post to loopback, or be rebound to its name."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    if host not in ("localhost", "127.0.0.1", "::1", "testserver"):
        raise Problem("forbidden", "Without a token only requests to localhost are answered")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Problem("forbidden", "Without a token no other site's page may ask")
