"""Bearer tokens: kept as sha256 only, several at a time for rotation, each with scopes and an end.

A line of the token file is `NAME SCOPES EXPIRES SHA256`; `python -m services.xai_worker token NAME` prints
one together with its token. The name owns jobs, so two lines may share it while a token is exchanged. The tokens are
256 random bits, so that a plain sha256 of one cannot be searched.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from services.xai_worker.http_settings import HttpSettings
from shared.errors import ConfigError, MissingInput

SCOPES = ("submit", "read", "cancel", "admin")
NEVER = "never"
MIN_CHARACTERS = 16
RELOAD_S = 1.0
MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Token:
    """One accepted token; the token itself is not known here."""

    name: str
    scopes: frozenset[str]
    expires: datetime | None
    sha256: str

    def line(self) -> str:
        """Its line in a token file."""
        scopes = ",".join(scope for scope in SCOPES if scope in self.scopes)
        end = NEVER if self.expires is None else self.expires.isoformat(timespec="seconds")
        return f"{self.name} {scopes} {end} {self.sha256}"


def new_token(name: str, scopes: Iterable[str], expires: datetime | None) -> tuple[str, Token]:
    """Make a token; only its hash stays with the service."""
    plain = secrets.token_urlsafe(32)
    made = Token(name, frozenset(scopes), expires, sha256_of(plain))
    return plain, parse_line(made.line(), where="the arguments")


def expires_in(days: int | None) -> datetime | None:
    """The end of a token made now; None never ends."""
    return None if days is None else datetime.now(UTC) + timedelta(days=days)


def sha256_of(plain: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(plain.encode()).hexdigest()


def parse_line(line: str, *, where: str) -> Token:
    """One line of a token file.

    Raises:
        ConfigError: it is not one; the message does not repeat it.
    """
    remedy = f"A line is NAME SCOPES EXPIRES SHA256; scopes of {','.join(SCOPES)}; an ISO date or {NEVER}"
    parts = line.split()
    if len(parts) != 4:
        raise ConfigError(f"{len(parts)} words instead of four", where=where, remedy=remedy)
    name, scopes, end, digest = parts
    granted = frozenset(scopes.split(","))
    if not _NAME.fullmatch(name) or not granted <= set(SCOPES) or not _SHA256.fullmatch(digest):
        raise ConfigError("not a token line", where=where, remedy=remedy)
    return Token(name, granted, _expiry(end, where, remedy), digest)


def _expiry(text: str, where: str, remedy: str) -> datetime | None:
    if text == NEVER:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError("not an ISO date", where=where, remedy=remedy) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Tokens:
    """What is accepted now. The file is read again when it changes, so that a token is exchanged without a restart."""

    def __init__(self, fixed: Iterable[Token] = (), file: Path | None = None) -> None:
        self._fixed, self._file = tuple(fixed), file
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._checked = 0.0
        self._read: tuple[Token, ...] = ()
        if file is not None:
            self._read, self._stamp = _read(file), _stamp(file)
            self._checked = time.monotonic()

    @classmethod
    def from_settings(cls, settings: HttpSettings, environment: MutableMapping[str, str] = os.environ) -> Tokens:
        """Tokens of the file, of the secret, and of GOWHY_XAI_TOKEN, which is taken out of the environment.

        Raises:
            ConfigError: a line is wrong or a token too short. MissingInput: a named file is not there.
        """
        plain = {"GOWHY_XAI_TOKEN": environment.pop("GOWHY_XAI_TOKEN", "").strip()}  # a job's process inherits the rest
        if settings.token_file is not None:
            plain[str(settings.token_file)] = _text(settings.token_file).strip()
        fixed = []
        for where, token in plain.items():
            if 0 < len(token) < MIN_CHARACTERS:
                remedy = "Make one with python -m services.xai_worker token NAME"
                raise ConfigError(f"a token of fewer than {MIN_CHARACTERS} characters", where=where, remedy=remedy)
            if token:
                fixed.append(Token("default", frozenset(SCOPES), None, sha256_of(token)))
        return cls(fixed, settings.tokens_file)

    def __bool__(self) -> bool:
        return bool(self.current())

    def current(self) -> tuple[Token, ...]:
        """Every token, expired ones too."""
        if self._file is not None and time.monotonic() - self._checked > RELOAD_S:
            with self._lock:
                self._checked = time.monotonic()
                self._reload(self._file)
        return self._fixed + self._read

    def find(self, presented: str, now: datetime | None = None) -> Token | None:
        """The live token with this text, or None. Every stored hash is compared, each in constant time."""
        digest = sha256_of(presented)
        found = None
        for token in self.current():
            same = hmac.compare_digest(token.sha256, digest)
            if same and (token.expires is None or token.expires > (now or datetime.now(UTC))):
                found = token
        return found

    def _reload(self, file: Path) -> None:
        # A file that is being replaced or has a wrong line must not lock everybody out: the last good one stays.
        try:
            stamp = _stamp(file)
            if stamp != self._stamp:
                self._read, self._stamp = _read(file), stamp
        except (ConfigError, MissingInput, OSError):
            return


def _read(file: Path) -> tuple[Token, ...]:
    lines = [(number, line.partition("#")[0].strip()) for number, line in enumerate(_text(file).splitlines(), 1)]
    return tuple(parse_line(line, where=f"{file}, line {number}") for number, line in lines if line)


def _stamp(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES).decode()
    except OSError as error:
        raise MissingInput(f"cannot read {file}", remedy="It must be a file that this user may read") from error
    except UnicodeDecodeError as error:
        raise ConfigError("not text", where=str(file)) from error
