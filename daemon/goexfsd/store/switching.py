"""Switching: subvolumes of the user's of which one is to take the other's place.

Subvolumes are known by their numbers, which are never given twice, and found by them whatever
became of their names; ``commits/<cid>/whole`` is where the one that was there before ends up.
Nothing here follows a path outside the store; OSError as the calls say.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import btrfsutil

from goexfsd import kernel
from goexfsd.store import lowers

WHOLE = "whole"
"""The tree before a commit, in the commit's directory."""
_GONE = (errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True, slots=True)
class Subvolume:
    """A subvolume as it is now."""

    number: int
    generation: int
    """The transaction in which anything in it last changed; a snapshot has its source's."""
    uuid: str


def look(fd: int) -> Subvolume:
    """The subvolume that ``fd`` lies in.  What is not written back does not count: sync first."""
    found = btrfsutil.subvolume_info(fd)
    return Subvolume(int(found.id), int(found.ctransid), bytes(found.uuid).hex())


def obstacle(store: Path, top: int) -> str | None:
    """Why the directory ``top`` cannot take part, as the end of a sentence; None: it can."""
    if not lowers.can_hold(store, top, ""):
        return "it is no subvolume on the store's file system, or has others in it"
    if btrfsutil.get_subvolume_read_only(top):
        return "it is a read-only subvolume"
    if int(btrfsutil.get_default_subvolume(top)) == btrfsutil.subvolume_id(top):
        return "it is the file system's default subvolume"
    return None


def snapshot(top: int, parent: int, name: str) -> None:
    """A writable snapshot of ``top`` as ``name`` in the directory ``parent``."""
    btrfsutil.create_snapshot(top, f"/proc/self/fd/{parent}/{name}", read_only=False)


def freeze(fd: int, *, on: bool) -> None:
    """Make the subvolume read-only, or no longer."""
    if bool(btrfsutil.get_subvolume_read_only(fd)) != on:
        btrfsutil.set_subvolume_read_only(fd, on)


def where(store: Path, number: int) -> str | None:
    """The path of a subvolume from the top of the file system; None if it is gone."""
    try:
        return str(btrfsutil.subvolume_path(str(store), number))
    except btrfsutil.BtrfsUtilError as error:
        if error.errno in _GONE or error.btrfsutilerror == btrfsutil.ERROR_SUBVOLUME_NOT_FOUND:
            return None
        raise


def named(store: Path, name: str, source: str) -> list[int]:
    """The subvolumes of that name, wherever they are, that are snapshots of ``source`` (a uuid)."""
    with btrfsutil.SubvolumeIterator(str(store), top=5, info=True) as all_of_them:
        return [
            int(info.id)
            for path, info in all_of_them
            if path.rpartition("/")[2] == name and bytes(info.parent_uuid).hex() == source
        ]


def remove(store: Path, number: int) -> None:
    """Delete a subvolume by its number; none there is fine.  ``sync`` makes it durable."""
    if where(store, number) is None:
        return
    fd = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        kernel.delete_subvolume(fd, number)
    finally:
        os.close(fd)


def sync(store: Path) -> None:
    """Everything on the file system is on disk when this returns."""
    btrfsutil.sync(str(store))
