"""The edge of every command: arguments in, exit code out, errors as one line on stderr."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn

from shared.errors import GowhyError, from_os_error

EXIT_USAGE = 64
EXIT_INTERNAL = 70
EXIT_SIGINT = 130
EXIT_SIGTERM = 143


class Parser(argparse.ArgumentParser):
    """argparse with the documented exit code for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        """Print usage and leave with 64."""
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


class Terminated(BaseException):
    """SIGTERM, as an exception, so that `finally` blocks run."""


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def run_command(command: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int:
    """Run a command and turn what it raises into an exit code and a message.

    An unexpected exception prints its traceback and gives 70; it is a defect of gowhy.
    """
    previous: Any = signal.signal(signal.SIGTERM, _terminate)
    try:
        return command(arguments) or 0
    except GowhyError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return EXIT_SIGINT
    except Terminated:
        print("terminated; run the same command again to resume", file=sys.stderr)
        return EXIT_SIGTERM
    except BrokenPipeError:
        return 0
    except OSError as error:
        named = from_os_error(error, str(error.filename or "file system"))
        print(f"error: {named}", file=sys.stderr)
        return named.exit_code
    except Exception:  # noqa: BLE001 - the last net of the process
        traceback.print_exc()
        print("error: internal; this is a defect of gowhy, the traceback above says where", file=sys.stderr)
        return EXIT_INTERNAL
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(parser: Parser, argv: Sequence[str] | None = None) -> int:
    """Parse and run; sub-parsers set `command` to their function."""
    arguments = parser.parse_args(argv)
    return run_command(arguments.command, arguments)
