"""Is the volume one that results can be published on? Tried at start, before any job is taken."""

from __future__ import annotations

import errno
import shutil
import uuid
from pathlib import Path

from shared.atomic import fsync_path
from shared.errors import CannotWrite, MissingInput, from_os_error

REMEDY = "Set GOWHY_XAI_OUT to the folder that train writes, on a filesystem with atomic rename"


def check_volume(out: Path) -> None:
    """Publish twice under one name: the first rename must win, and the second be refused.

    Raises:
        MissingInput: there is no such folder.
        CannotWrite: it is not writable, full, or replaces a folder that is not empty.
    """
    if not out.is_dir():
        raise MissingInput(f"no volume at {out}", where="GOWHY_XAI_OUT", remedy=REMEDY)
    probe = out / f".probe-{uuid.uuid4().hex}"
    try:
        for name in ("first", "second"):
            (probe / name).mkdir(parents=True)
            (probe / name / "file").write_text(name)
            fsync_path(probe / name / "file")
        (probe / "first").rename(probe / "final")
        fsync_path(probe)
        refused = False
        try:
            (probe / "second").rename(probe / "final")
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            refused = True
        if not refused or (probe / "final" / "file").read_text() != "first":
            raise CannotWrite(f"{out} has no atomic publish", where="GOWHY_XAI_OUT", remedy=REMEDY)
    except OSError as error:
        raise from_os_error(error, str(out)) from error
    finally:
        shutil.rmtree(probe, ignore_errors=True)
