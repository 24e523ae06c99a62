"""A Postgres from Debian's binaries, on loopback, for tests: started, restarted, thrown away."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg


def binaries() -> Path | None:
    """The folder with initdb and pg_ctl, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if found:
        return found[-1].parent
    on_path = shutil.which("pg_ctl")
    return Path(on_path).parent if on_path else None


def missing() -> str | None:
    """Why no server can be started here; None if one can."""
    if binaries() is None:
        return "no Postgres binaries; on Debian: apt-get install postgresql"
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "Postgres does not run as root, and there is no user postgres"
        if shutil.which("runuser") is None:
            return "Postgres does not run as root, and there is no runuser"
    return None


class PostgresServer:
    """One cluster in a temporary folder of its own."""

    def __init__(self) -> None:
        bin_folder = binaries()
        assert bin_folder is not None
        self.bin = bin_folder
        # Not pytest's tmp_path: the user postgres cannot reach into it.
        self.folder = Path(tempfile.mkdtemp(prefix="gowhy-pg-"))
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "--no-sync")
        self.start()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def url(self, name: str = "postgres") -> str:
        """Of one database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        # Without fsync: the server is killed, the machine is not.
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c max_connections=200 -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "120", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop; `immediate` is a crash."""
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "120", "-m", mode, "stop")

    def create(self, name: str, template: str = "template1") -> str:
        """A new database, empty or like another; its URL."""
        self._sql(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
        return self.url(name)

    def drop(self, name: str) -> None:
        """Delete a database and end who uses it."""
        self._sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _sql(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)

    def remove(self) -> None:
        """Stop it and delete everything."""
        try:
            self.stop("immediate")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self.bin / program), *arguments]
        if os.getuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder, timeout=180)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr or done.stdout}")
