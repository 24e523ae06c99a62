"""Settings of the HTTP side; the only reader of its GOWHY_XAI_* variables."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import Field

from services.xai_worker.environment import EnvironmentSettings

MIB = 1 << 20


class HttpSettings(EnvironmentSettings):
    """Where to listen, whom to believe, and how much one request may ask. Each field is GOWHY_XAI_<FIELD>."""

    out: Path = Field(Path("out"), description="the volume shared with train")
    host: str = Field("127.0.0.1", description="beyond loopback only with a token")
    port: int = Field(8080, ge=0, le=65535, description="0 takes a free port")

    tokens_file: Path | None = Field(None, description="lines: NAME SCOPES EXPIRES SHA256; read again when it changes")
    token_file: Path | None = Field(None, description="one plain token with every scope, such as a mounted secret")
    metrics_open: bool = Field(False, description="serve metrics without a token even where tokens are set")

    max_body_bytes: int = Field(4 * MIB, ge=1024, le=16 * MIB, description="larger bodies get 413")
    header_timeout_s: float = Field(
        10, gt=0, description="a client must send its request line and headers in this time"
    )
    body_timeout_s: float = Field(30, gt=0, description="and its body in this time, else 408")
    send_timeout_s: float = Field(60, gt=0, description="a client that reads nothing for this long is cut off")
    max_connections: int = Field(512, ge=1, description="further ones get 503 at once")
    max_streams: int = Field(64, ge=1, description="open event streams; further ones get 429")
    stream_s: float = Field(3600, gt=0, description="an event stream ends after this; clients resume by Last-Event-ID")
    stream_poll_s: float = Field(0.5, gt=0, description="how often an event stream looks for news")
    submissions: int = Field(1, ge=1, description="jobs being taken at the same time; further clients wait in line")
    refusal_s: float = Field(
        0.08, ge=0, le=1, description="a full queue answers no sooner, whoever ignores Retry-After"
    )

    max_proteins: int = Field(1_000, ge=1, description="proteins per job")
    max_terms: int = Field(100, ge=1, description="terms per protein and job")
    max_work: int = Field(10_000_000, ge=1, description="proteins x terms x residues per job")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
