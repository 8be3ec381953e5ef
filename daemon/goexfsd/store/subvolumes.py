"""Subvolumes and snapshots: libbtrfsutil's calls, as this store needs them.

Every call is one ioctl and constant in what the subvolume holds.  Errors are OSError (a
BtrfsUtilError is one).
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import btrfsutil

_PAUSE, _LONGEST = 0.02, 0.3
"""Seconds."""


def create(path: Path) -> None:
    """An empty subvolume."""
    btrfsutil.create_subvolume(str(path))


def snapshot(source: Path, path: Path, *, read_only: bool) -> None:
    """``path`` becomes a snapshot of ``source``: dirty data included, durable on return."""
    btrfsutil.create_snapshot(str(source), str(path), read_only=read_only)


def delete(path: Path) -> None:
    """Take a subvolume away; its blocks are freed in the background.

    Files still open in it stay usable until closed.
    """
    try:
        btrfsutil.delete_subvolume(str(path))
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        btrfsutil.delete_subvolume(str(path), recursive=True)  # others nested in it


def is_subvolume(path: Path) -> bool:
    """Whether ``path`` is the root of a subvolume (a symlink never is)."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    return status.st_ino == 256 and bool(btrfsutil.is_subvolume(str(path)))


def changed_at(path: Path) -> int:
    """The transaction in which anything in the subvolume last changed.

    A snapshot keeps the number of its source until one of them changes.  Data not yet written
    back does not count: sync first where that matters.
    """
    return int(btrfsutil.subvolume_info(str(path)).ctransid)


def made_at(path: Path) -> int:
    """The transaction in which the subvolume was made."""
    return int(btrfsutil.subvolume_info(str(path)).otransid)


def sync(path: Path) -> None:
    """Write all data of the file system back and commit the running transaction; also sets the
    cleaner of deleted subvolumes to work."""
    btrfsutil.sync(str(path))


def wait_cleaned(path: Path, patience: float) -> bool:
    """Wait until deleted subvolumes gave their room back; False if some are left.

    Each look syncs the file system; they become rarer.
    """
    deadline = time.monotonic() + patience
    pause = _PAUSE
    sync(path)
    while btrfsutil.deleted_subvolumes(str(path)):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST)
        sync(path)
    sync(path)  # what the cleaner freed can be used again after its transaction only
    return True
