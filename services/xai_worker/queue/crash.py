"""Named points at which a test kills the process, one before and one after each durable step.

`GOWHY_XAI_CRASH_AT=NAME` makes the process that reaches the point kill itself. With
`GOWHY_XAI_CRASH_MARK=FILE` it does so once: the file is made first, and nobody crashes while it is there.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "submit.before_commit",
    "submit.after_commit",
    "claim.before_commit",
    "claim.after_commit",
    "child.started",
    "child.before_grant",
    "grant.before_commit",
    "grant.after_commit",
    "child.before_rename",
    "child.after_rename",
    "finish.before_commit",
    "finish.after_commit",
    "retry.before_commit",
    "retry.after_commit",
    "cancel.before_commit",
    "cancel.after_commit",
    "seal.after_rename",
    "hand_back.before_commit",
    "hand_back.after_commit",
    "reconcile.before_commit",
    "reconcile.after_commit",
)


def crash_point(name: str) -> None:
    """Die by SIGKILL if a test asked for it here."""
    assert name in POINTS, name  # noqa: S101
    if os.environ.get("GOWHY_XAI_CRASH_AT") != name:
        return
    mark = os.environ.get("GOWHY_XAI_CRASH_MARK")
    if mark:
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)
