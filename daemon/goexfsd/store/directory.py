"""A directory on a btrfs that the user has, as the store.

Its identity is an ``id`` file that we put there at first use: if that is gone, the file system
is not mounted, or the directory is another, and nothing is made in its place.  A lock on the
directory keeps two daemons apart.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import btrfs.ioctl

from goexfs.errors import Denied, InvalidState, StoreFailed
from goexfsd import kernel
from goexfsd.store.marker import write_durably

_ID = "id"
_OURS = frozenset((_ID, "sessions", "commits", "trash", "reserve"))


def lock(path: Path) -> int:
    """Open the directory and hold it for as long as the descriptor lives; it must be a btrfs."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreFailed(
            f"the store {path} cannot be opened: {error.strerror}",
            hint="mount the file system it lies on, or correct store in goexfsd.toml",
        ) from error
    try:
        _check(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def file_system_id(fd: int) -> uuid.UUID:
    """What tells one btrfs from all others.  OSError (ENOTTY) where ``fd`` does not lie on one."""
    found: uuid.UUID = btrfs.ioctl.fs_info(fd).fsid
    return found


def _check(path: Path, fd: int) -> None:
    try:
        file_system_id(fd)
    except OSError as error:
        raise StoreFailed(
            f"the store {path} does not lie on a btrfs file system",
            hint="name a directory on a btrfs, or leave store out of goexfsd.toml to have an "
            "image made",
        ) from error
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Denied(
            f"the store {path} could be changed by others than root",
            hint=f"chown root:root {path} && chmod 0700 {path}",
        )
    if not kernel.lock_exclusive(fd, wait=False):
        raise InvalidState(
            f"the store {path} is in use by another goexfsd",
            hint="stop that daemon first, or give this one a directory of its own",
        )


def identity(path: Path) -> str | None:
    """The store's id; None if there is none."""
    try:
        return (path / _ID).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def claim(path: Path) -> str:
    """Make the directory a store, or take over one whose marker was not yet written."""
    known = identity(path)
    if known is not None:
        return known
    strangers = sorted({entry.name for entry in path.iterdir()} - _OURS)
    if strangers:
        raise StoreFailed(
            f"the store directory {path} is not empty (it has {strangers[0]!r})",
            hint="give the store a new, empty directory",
        )
    fresh = str(uuid.uuid4())
    write_durably(path / _ID, fresh.encode() + b"\n")
    return fresh
