from __future__ import annotations

import argparse
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared import errors
from shared.edge import Parser, main, run_command
from shared.errors import GowhyError, UsageError, from_os_error

REPOSITORY = Path(__file__).resolve().parents[2]

EXIT_CODES = {
    "GowhyError": 70,
    "UsageError": 64,
    "DataError": 65,
    "MissingInput": 66,
    "ServiceUnavailable": 69,
    "CannotWrite": 73,
    "TryAgain": 75,
    "NotPermitted": 77,
    "ConfigError": 78,
    "EnvMismatch": 79,
    "IntegrityError": 80,
    "ParityError": 80,
}


def every_error(kind: type[GowhyError] = GowhyError) -> list[type[GowhyError]]:
    """The errors of shared; a service may derive its own, which keep the exit code of what they derive from."""
    found = [kind, *(found for child in kind.__subclasses__() for found in every_error(child))]
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_the_exit_code_table_is_total() -> None:
    assert {kind.__name__: kind.exit_code for kind in every_error()} == EXIT_CODES
    codes = [kind.code for kind in every_error()]
    assert len(set(codes)) == len(codes)
    drawn = errors.__doc__ or ""
    for name, code in EXIT_CODES.items():
        assert any(name in line and str(code) in line for line in drawn.splitlines()), name


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_ends_a_command_with_its_code_and_says_all_three(kind, capsys) -> None:
    def command(arguments: argparse.Namespace) -> int:
        raise kind("what", where="where", remedy="do this")

    assert run_command(command, argparse.Namespace()) == kind.exit_code
    assert capsys.readouterr().err == "error: what (in where). do this\n"


def test_other_endings(capsys) -> None:
    def raising(error: BaseException):
        def command(arguments: argparse.Namespace) -> int:
            raise error

        return command

    assert run_command(lambda _: None, argparse.Namespace()) == 0
    assert run_command(lambda _: 1, argparse.Namespace()) == 1
    assert run_command(raising(KeyboardInterrupt()), argparse.Namespace()) == 130
    assert run_command(raising(OSError(errno.ENOSPC, "full")), argparse.Namespace()) == 73
    assert run_command(raising(ValueError("oops")), argparse.Namespace()) == 70
    assert "defect of gowhy" in capsys.readouterr().err


def test_sigterm_is_143() -> None:
    script = "import argparse, time; from shared.edge import run_command\ndef f(a):\n  print('up', flush=True); time.sleep(60)\nraise SystemExit(run_command(f, argparse.Namespace()))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143


def test_a_wrong_command_line_is_64() -> None:
    parser = Parser(prog="x")
    with pytest.raises(SystemExit) as caught:
        main(parser, ["--nope"])
    assert caught.value.code == 64


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 73), (errno.EROFS, 73), (errno.EACCES, 73), (errno.ENOENT, 66), (errno.EIO, 73)]
)
def test_operating_system_failures_have_names(number, code) -> None:
    error = from_os_error(OSError(number, os.strerror(number), "/some/file"), "here")
    assert error.exit_code == code
    assert "here" in str(error)


def test_usage_error_is_not_retryable() -> None:
    assert not UsageError("x").retryable
    assert errors.TryAgain("x").retryable
