"""Every failure gowhy can name, and what a user does next.

GowhyError                    exit 70
├── UsageError                64   the command line asks for something impossible
├── DataError                 65   an input file's content is wrong
├── MissingInput              66   a file, artefact, term or protein that was named is not there
├── ServiceUnavailable        69   another service did not answer (retryable)
├── CannotWrite               73   read-only folder, full disk
├── TryAgain                  75   lock held, remote busy (retryable)
├── NotPermitted              77   a path or an operation that is refused for safety
├── ConfigError               78   the configuration is not valid
├── EnvMismatch               79   the installed packages differ from the lock
└── IntegrityError            80   bytes or a document are not what a hash or schema says
    └── ParityError           80   a recomputed score differs from the stored one

The numbers are sysexits.h's where one exists. `exit_code` is the only mapping; the command line
reads it, the worker maps `code` to an HTTP status, and a test holds both tables total.
"""

from __future__ import annotations

import errno


class GowhyError(Exception):
    """What was wrong, where, and what to do next; all three are in the message.

    Args:
        what: the problem, with the offending value.
        where: file, line, artefact or config key.
        remedy: the next step for the reader.
    """

    code = "internal"
    exit_code = 70
    retryable = False

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(self.render())

    def render(self) -> str:
        """One line: `what (where). remedy`."""
        text = self.what if self.where is None else f"{self.what} (in {self.where})"
        return text if self.remedy is None else f"{text}. {self.remedy}"


class UsageError(GowhyError):
    """The command line asks for something impossible."""

    code = "usage"
    exit_code = 64


class DataError(GowhyError):
    """An input file's content is wrong."""

    code = "bad_data"
    exit_code = 65


class MissingInput(GowhyError):
    """Something that was named is not there."""

    code = "missing_input"
    exit_code = 66


class ServiceUnavailable(GowhyError):
    """Another service did not answer."""

    code = "unavailable"
    exit_code = 69
    retryable = True


class CannotWrite(GowhyError):
    """An output cannot be written: read-only folder, full disk."""

    code = "cannot_write"
    exit_code = 73


class TryAgain(GowhyError):
    """Somebody else holds the lock, or a remote is busy."""

    code = "try_again"
    exit_code = 75
    retryable = True


class NotPermitted(GowhyError):
    """Refused for safety."""

    code = "not_permitted"
    exit_code = 77


class ConfigError(GowhyError):
    """The configuration is not valid."""

    code = "bad_config"
    exit_code = 78


class EnvMismatch(GowhyError):
    """The installed packages differ from the lock."""

    code = "env_mismatch"
    exit_code = 79


class IntegrityError(GowhyError):
    """Bytes or a document are not what a hash or a schema says."""

    code = "integrity"
    exit_code = 80


class ParityError(IntegrityError):
    """A recomputed score differs from the stored one: another model would be explained."""

    code = "parity"


def from_os_error(error: OSError, where: str) -> GowhyError:
    """Name an operating-system failure met while writing `where`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CannotWrite(
            "the disk is full", where=where, remedy="Free space, then run again; finished stages are kept"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return CannotWrite(
            "not writable", where=where, remedy="Make the folder writable or choose another with --set paths.out=DIR"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return CannotWrite("not a folder", where=where, remedy="Choose another with --set paths.out=DIR")
    if isinstance(error, FileNotFoundError):
        return MissingInput(f"no such file: {error.filename}", where=where)
    return CannotWrite(str(error), where=where)
