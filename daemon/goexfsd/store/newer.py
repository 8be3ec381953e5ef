"""What of a layer is newer than a checkpoint of it: asked of btrfs, with python-btrfs, not walked.

btrfs writes beside each inode the transaction that last changed it, and beside each block of its
trees the one that wrote the block; whole branches without anything newer are passed over by
``BTRFS_IOC_TREE_SEARCH_V2`` (CAP_SYS_ADMIN).  Every change of a directory's names, of attributes
or of bytes changes an inode.  A snapshot is taken at the end of its transaction, so what it does
not hold was changed in a later one.

Deleted names are in no tree: that a directory lost one shows as that directory being newer.
Dirty data and names that wait in memory do not show either: sync a live layer first.

It reads numbers and names out of the file system's trees; it opens nothing in a layer.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct

import btrfs
import btrfs.ctree
import btrfs.ioctl
import btrfsutil

MANY = 5_000
_SHARE = 4
"""Beyond so many inodes nothing is told if they are a quarter of all that the layer ever had:
then a walk is as good."""
_BUFFER = 64 * 1024
_ONE = 4 * 1024
_INODE = btrfs.ctree.INODE_ITEM_KEY
_REF = btrfs.ctree.INODE_REF_KEY
_EXTREF = btrfs.ctree.INODE_EXTREF_KEY
_TOP = 256
"""The inode of a subvolume's root, the first."""
_LAST = (1 << 48) - 1
"""More than a layer has inodes; what lies far above it are not files."""
_ITEM = Struct("<QQ24xI")  # generation, transid, size, nbytes, block_group, nlink: btrfs_inode_item
_IN_REF = Struct("<QH")  # index, length of the name that follows: btrfs_inode_ref
_IN_EXTREF = Struct("<QQH")  # directory, index, length of the name: btrfs_inode_extref

Name = tuple[int, bytes]
"""A directory's inode, and a name in it."""


@dataclass(frozen=True, slots=True)
class Newer:
    """Inodes of one layer."""

    device: int
    """Of the layer, as stat has it."""
    changed: set[int] = field(default_factory=set)
    """Those that were changed since; of what is gone nothing is left but its directory."""
    names: dict[int, list[Name]] = field(default_factory=dict)
    """Where they are, and where the directories above them are, up to the subvolume's root."""


def newer(old: Path, new: Path, also: Collection[int] = ()) -> Newer | None:
    """What in ``new`` differs, or may, from the snapshot ``old``, which it came of; also named
    are the inodes ``also`` as far as they exist.

    None where ``new`` did not, as far as can be told, or there is too much to tell.  OSError.
    """
    then, now = btrfsutil.subvolume_info(str(old)), btrfsutil.subvolume_info(str(new))
    fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _came_of(fd, now, then):
            return None
        search = _Search(fd, int(then.otransid))
        if len(also) > MANY:  # most are gone again; what is not new was there before
            last = _highest_in(old)
            also = [ino for ino in also if ino <= last]
        return search.run(also)
    finally:
        os.close(fd)


def _highest_in(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _highest(fd)
    finally:
        os.close(fd)


def _highest(fd: int) -> int:
    """The highest inode number of a subvolume."""
    low, high = _TOP, _LAST
    while low < high:
        middle = (low + high + 1) // 2
        first, last = btrfs.ctree.Key(middle, 0, 0), btrfs.ctree.Key(_LAST, 255, 0)
        found = btrfs.ioctl.search_v2(fd, 0, first, last, nr_items=1, buf_size=_BUFFER)
        low, high = (low, middle - 1) if next(found, None) is None else (middle, high)
    return low


def _came_of(fd: int, now: btrfsutil.SubvolumeInfo | None, then: btrfsutil.SubvolumeInfo) -> bool:
    """Whether all that is in a subvolume and not newer than the snapshot ``then`` is in that.

    It is where ``then`` is a snapshot of it, or both are of another, ``then`` the earlier; and
    where it was so of what it is itself a snapshot of, when it was made.  A link of that chain
    that has been deleted since (a layer that was left by a rewind) ends it.
    """
    until = btrfs.ctree.ULLONG_MAX
    while now is not None:
        if then.uuid in (now.uuid, now.parent_uuid):
            return True
        if then.parent_uuid == now.uuid and then.otransid <= until:
            return True
        if not any(now.parent_uuid):
            return False
        if then.parent_uuid == now.parent_uuid and then.otransid <= now.otransid:
            return True
        until = now.otransid
        now = _by_uuid(fd, now.parent_uuid)
    return False


def _by_uuid(fd: int, uuid: bytes) -> btrfsutil.SubvolumeInfo | None:
    key = btrfs.ctree.Key(
        int.from_bytes(uuid[:8], "little"),
        btrfs.ctree.UUID_KEY_SUBVOL,
        int.from_bytes(uuid[8:], "little"),
    )
    found = btrfs.ioctl.search_v2(
        fd, btrfs.ctree.UUID_TREE_OBJECTID, key, key, nr_items=1, buf_size=_ONE
    )
    for _, data in found:
        try:
            return btrfsutil.subvolume_info(fd, int.from_bytes(data[:8], "little"))
        except OSError:
            return None  # deleted, but for its name in that tree
    return None


class _Search:
    def __init__(self, fd: int, since: int) -> None:
        self._fd = fd
        self._since = since
        self._found = Newer(os.fstat(fd).st_dev)

    def run(self, also: Collection[int]) -> Newer | None:
        links: dict[int, int] = {}
        names: dict[int, list[Name]] = {}
        enough = MANY
        items = btrfs.ioctl.search_v2(self._fd, 0, min_transid=self._since + 1, buf_size=_BUFFER)
        for header, data in items:
            ino = header.objectid
            if header.type == _INODE:
                _, changed, nlink = _ITEM.unpack_from(data)
                if changed > self._since:
                    links[ino] = nlink
                    if len(links) == MANY:
                        enough = max(MANY, (_highest(self._fd) - _TOP) // _SHARE)
                    if len(links) > enough:
                        return None
            elif ino in links and header.type in (_REF, _EXTREF):
                names.setdefault(ino, []).extend(_names(header, data))
        found = self._found
        for ino, nlink in links.items():
            there = names.get(ino, [])
            # The leaf with the other names need not have been written anew.
            self._note(ino, there if len(there) == nlink else self._names_of(ino))
        for ino in also:
            if ino not in found.names:
                self._note(ino, self._names_of(ino))
        found.changed.update(found.names)
        self._climb()
        return found

    def _note(self, ino: int, names: list[Name]) -> None:
        if names:  # none: open, but deleted
            self._found.names[ino] = names

    def _names_of(self, ino: int) -> list[Name]:
        low = btrfs.ctree.Key(ino, _REF, 0)
        high = btrfs.ctree.Key(ino, _EXTREF, btrfs.ctree.ULLONG_MAX)
        found: list[Name] = []
        for header, data in btrfs.ioctl.search_v2(self._fd, 0, low, high, buf_size=_BUFFER):
            found += _names(header, data)
        return found

    def _climb(self) -> None:
        """Name the directories above what was found."""
        names = self._found.names
        waiting = {directory for there in names.values() for directory, _ in there}
        while waiting:
            ino = waiting.pop()
            if ino in names or ino == _TOP:
                continue
            names[ino] = self._names_of(ino)
            waiting.update(directory for directory, _ in names[ino])


def _names(header: btrfs.ioctl.SearchHeader, data: memoryview) -> Iterator[Name]:
    at = 0
    while at < header.len:
        if header.type == _REF:
            directory = header.offset
            _, length = _IN_REF.unpack_from(data, at)
            at += _IN_REF.size
        else:
            directory, _, length = _IN_EXTREF.unpack_from(data, at)
            at += _IN_EXTREF.size
        yield directory, bytes(data[at : at + length])
        at += length
