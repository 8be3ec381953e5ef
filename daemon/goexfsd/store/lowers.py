"""Lowers: read-only snapshots of the user's subvolumes, beneath which a session sees its base.

They can be taken where the store is a directory on the very btrfs that the subvolume lies on.
Each generation is one directory of a session, ``lower.<n>``, with one snapshot for each
subvolume, ``0``, ``1``, ...; the catalog says which generation a session shows, every other one
is garbage.  A snapshot holds no subvolume that is nested in its source, only an empty directory
in its place: who would see one of those is told to use the live base instead.

It takes descriptors, never paths: who may see a subvolume was decided when they were opened.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import btrfs.ioctl
import btrfsutil

from goexfsd.store import garbage

_PREFIX = "lower."


def can_hold(store: Path, top: int, inner: str) -> bool:
    """Whether a snapshot in ``store`` of the subvolume ``top`` shows all that is below the
    directory ``inner`` in it."""
    try:
        if not btrfsutil.is_subvolume(top) or _file_system(top) != _file_system_at(store):
            return False
        number = int(btrfsutil.subvolume_id(top))
        with btrfsutil.SubvolumeIterator(top, top=number) as nested:
            return not any(_is_below(path, inner) for path, _ in nested)
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL, errno.ENOENT):
            return False  # another file system; or a subvolume went while they were listed
        raise


def _file_system(fd: int) -> bytes:
    return bytes(btrfs.ioctl.fs_info(fd).fsid.bytes)


def _file_system_at(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _file_system(fd)
    finally:
        os.close(fd)


def _is_below(path: str, inner: str) -> bool:
    return not inner or path == inner or path.startswith(inner + "/")


def take(session: Path, tops: Sequence[int]) -> str:
    """A new generation of ``session`` with a snapshot of each of ``tops``, durable; its number.

    OSError if one cannot be taken; then nothing is left of the generation.
    """
    taken = [int(path.suffix[1:]) for path in generations(session)]
    number = max(taken, default=0) + 1
    directory = session / f"{_PREFIX}{number}"
    directory.mkdir(mode=0o700)
    try:
        for place, top in enumerate(tops):
            btrfsutil.create_snapshot(top, str(directory / str(place)), read_only=True)
    except BaseException:
        garbage.remove(session.parent.parent, directory)
        raise
    return str(number)


def share(source: Path, session: Path, number: str) -> None:
    """``session`` gets generation ``number`` of the session ``source`` as its own."""
    directory = session / f"{_PREFIX}{int(number)}"
    directory.mkdir(mode=0o700)
    for lower in sorted((source / directory.name).iterdir()):
        btrfsutil.create_snapshot(str(lower), str(directory / lower.name), read_only=True)


def path_of(session: Path, name: str) -> Path:
    """The snapshot ``<generation>/<place>`` of a session."""
    number, _, place = name.partition("/")
    return session / f"{_PREFIX}{int(number)}" / str(int(place))


def generations(session: Path) -> list[Path]:
    """Those that are on disk."""
    return [path for path in session.glob(f"{_PREFIX}*") if path.suffix[1:].isdigit()]
