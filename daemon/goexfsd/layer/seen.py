"""What the session saw: the origins log of one layer, indexed for reading.

Keys are upper inode numbers (unique in a layer, for btrfs never reuses one) and base paths.  A
record whose upper entry never came into place (a crash between the two) is indexed all the
same: nothing refers to it.  It reads no file but the log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from goexfsd.layer.format import ORIGINS
from goexfsd.layer.origins import Identity, Kind, Record, load

# What a stat_result has beside its ten fields.
_NAMED = (
    "st_atime",
    "st_mtime",
    "st_ctime",
    "st_atime_ns",
    "st_mtime_ns",
    "st_ctime_ns",
    "st_blksize",
    "st_blocks",
    "st_rdev",
)
_SAW = (Kind.COPY, Kind.HIDE, Kind.ALIAS)


Inode = tuple[int, int]
"""Device (0: the root's own) and inode of a base file."""


@dataclass(slots=True)
class Seen:
    """The log of one root."""

    first: dict[bytes, Identity] = field(default_factory=dict)
    """Base path -> what was there when the session first changed it."""
    copies: dict[int, Record] = field(default_factory=dict)
    """Upper inode -> its COPY record."""
    several: dict[Inode, int] = field(default_factory=dict)
    """Base files with several names -> how many they had when first touched."""
    covered: dict[Inode, set[bytes]] = field(default_factory=dict)
    """The same -> those names that lead no more to the base's inode or its copy by themselves."""
    modes: dict[int, int] = field(default_factory=dict)
    owners: dict[int, tuple[int, int]] = field(default_factory=dict)
    times: set[int] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Take one more record, in the log's order."""
        kind, ino = record.kind, record.upper_ino
        if kind in _SAW:
            self._saw(record)
        if kind is Kind.COPY:
            self.copies.setdefault(ino, record)
        elif kind is Kind.MODE:
            self._mode(ino, record.identity.mode)
        elif kind is Kind.OWNER:
            self.owners[ino] = (record.identity.uid, record.identity.gid)
        elif kind is Kind.TIMES:
            self.times.add(ino)

    def _saw(self, record: Record) -> None:
        was = record.identity
        self.first.setdefault(record.path, was)
        if was.nlink > 1 and not stat.S_ISDIR(was.mode):
            inode = (was.dev, was.ino)
            self.several.setdefault(inode, was.nlink)
            self.covered.setdefault(inode, set()).add(record.path)

    def uncovered(self, inode: Inode) -> int:
        """How many names a base file still has that the layer says nothing of."""
        return max(0, self.several.get(inode, 0) - len(self.covered.get(inode, ())))

    def _mode(self, ino: int, mode: int) -> None:
        if mode:
            self.modes[ino] = mode
        else:
            self.modes.pop(ino, None)

    def shown(self, st: os.stat_result) -> os.stat_result:
        """``st`` of an upper inode with the mode and owner that the view shows."""
        ino = st.st_ino
        if ino not in self.modes and ino not in self.owners:
            return st
        fields = list(st)
        if ino in self.modes:
            fields[0] = (st.st_mode & ~0o700) | (self.modes[ino] & 0o700)
        if ino in self.owners:
            fields[4], fields[5] = self.owners[ino]
        named = {name: getattr(st, name) for name in _NAMED}
        return os.stat_result(fields, named)


def resized(st: os.stat_result, size: int) -> os.stat_result:
    """``st`` of a file that has other bytes, all of them on disk."""
    fields = list(st)
    fields[6] = size
    named = {name: getattr(st, name) for name in _NAMED}
    return os.stat_result(fields, {**named, "st_blocks": -(-size // 4096) * 8})


def index(records: Iterable[Record], roots: Iterable[int]) -> dict[int, Seen]:
    """Records by root."""
    found = {root: Seen() for root in roots}
    for record in records:
        seen = found.get(record.root)
        if seen is not None:
            seen.add(record)
    return found


def read(layer_fd: int, roots: Iterable[int]) -> dict[int, Seen]:
    """The log of a layer, by root."""
    records, _ = load(layer_fd, ORIGINS)
    return index(records, roots)
