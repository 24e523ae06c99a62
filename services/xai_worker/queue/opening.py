"""Open the queue: check where the database lies, make or upgrade its tables, connect the engine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from services.xai_worker.queue.database import Database
from services.xai_worker.queue.sql_queue import SqlQueue
from services.xai_worker.settings import WorkerSettings
from shared.errors import ConfigError, from_os_error

# SQLite needs locks and fsync that these do not give, or give only to one host.
NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "afs", "ceph", "glusterfs", "beegfs", "gpfs", "9p", "ncpfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.ceph", "fuse.gcsfuse", "fuse.juicefs"}
)
MOUNTS = Path("/proc/self/mounts")


def open_queue(settings: WorkerSettings) -> SqlQueue:
    """Open the queue that the settings name.

    Raises:
        ConfigError: SQLite on a network filesystem or inside the volume, or a newer release's database.
        CannotWrite: the database's folder is not writable.
        StoreDown: the database does not answer.
    """
    # DBOS takes most of a second to import: not where only the interface is needed.
    from services.xai_worker.queue import dbos_engine  # noqa: PLC0415
    from services.xai_worker.queue.schema import prepare  # noqa: PLC0415

    database = Database(settings.database_url, pool=max(8, 4 + 2 * settings.concurrency))
    if database.file is not None:
        check_local(database.file, settings.out)
    try:
        prepare(database)
        dbos_engine.migrate(database)
        return SqlQueue(database, dbos_engine.DbosDispatcher(database), settings)
    except BaseException:
        database.close()
        raise


def check_local(file: Path, out: Path) -> None:
    """Refuse a place where a SQLite file could be lost or damaged, and make its folder.

    Raises:
        ConfigError: it is on a network filesystem, or inside the volume.
        CannotWrite: its folder is not writable.
    """
    where = "GOWHY_XAI_DATABASE_URL"
    resolved = file.resolve()
    if resolved.is_relative_to(out.resolve()):
        raise ConfigError(
            f"the queue's database {file} lies inside the volume {out}",
            where=where,
            remedy="Put it on local disk outside: the volume may be shared, and a run may be deleted",
        )
    try:
        resolved.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=resolved.parent):  # a name of its own: many processes may open at once
            pass
    except OSError as error:
        raise from_os_error(error, str(resolved.parent)) from error
    kind = filesystem_of(resolved.parent)
    if kind in NETWORK_FILESYSTEMS:
        raise ConfigError(
            f"the queue's database {file} lies on a network filesystem ({kind}), where SQLite can lose jobs",
            where=where,
            remedy="Put it on local disk, or use postgresql://",
        )


def filesystem_of(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the filesystem that holds a path; empty where the system does not say."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found, longest = "", -1
    for line in lines:
        fields = line.split(" ")
        point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        # The last of equal mount points lies on top.
        if path.is_relative_to(point) and len(point.parts) >= longest:
            found, longest = fields[2], len(point.parts)
    return found
