"""What the session saw: the origins log of one layer, indexed for reading.

Keys are upper inode numbers (unique in a layer, for btrfs never reuses one) and base paths.  A
record whose upper entry never came into place (a crash between the two) is indexed all the
same: nothing refers to it.  It reads no file but the log.
"""

from __future__ import annotations

import os
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


@dataclass(slots=True)
class Seen:
    """The log of one root."""

    first: dict[bytes, Identity] = field(default_factory=dict)
    """Base path -> what was there when the session first changed it."""
    copies: dict[int, Record] = field(default_factory=dict)
    """Upper inode -> its COPY record."""
    covered: dict[int, set[bytes]] = field(default_factory=dict)
    """Upper inode -> the base names that it replaced or that are gone."""
    modes: dict[int, int] = field(default_factory=dict)
    owners: dict[int, tuple[int, int]] = field(default_factory=dict)
    times: set[int] = field(default_factory=set)

    def add(self, record: Record) -> None:
        """Take one more record, in the log's order."""
        kind, ino = record.kind, record.upper_ino
        if kind in _SAW:
            self.first.setdefault(record.path, record.identity)
        if kind is Kind.COPY:
            self.copies.setdefault(ino, record)
        if kind is Kind.COPY or kind is Kind.ALIAS:
            self.covered.setdefault(ino, set()).add(record.path)
        elif kind is Kind.MODE:
            self._mode(ino, record.identity.mode)
        elif kind is Kind.OWNER:
            self.owners[ino] = (record.identity.uid, record.identity.gid)
        elif kind is Kind.TIMES:
            self.times.add(ino)

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
            fields[0] = (st.st_mode & ~0o7777) | (self.modes[ino] & 0o7777)
        if ino in self.owners:
            fields[4], fields[5] = self.owners[ino]
        named = {name: getattr(st, name) for name in _NAMED}
        return os.stat_result(fields, named)


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
