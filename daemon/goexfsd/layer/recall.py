"""The origins log of a layer that has come far, of which little is wanted: skimmed, not read.

A skim notes where each upper inode is spoken of; the records themselves are decoded when
somebody asks for that inode.  One skim serves a checkpoint and an earlier one of the same layer:
the earlier one's log is the beginning of the later one's.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from struct import Struct

from goexfsd.layer import origins
from goexfsd.layer.format import ORIGINS
from goexfsd.layer.origins import Record
from goexfsd.layer.seen import Seen

_GLANCE = Struct("<4sI12xQ16xII")  # magic, length, upper inode, mode, nlink


class Skim:
    """One log."""

    def __init__(self, layer_fd: int, start: int) -> None:
        """The first ``start`` bytes are the earlier log."""
        fd = os.open(ORIGINS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer_fd)
        with os.fdopen(fd, "rb") as log:
            self._data = log.read()
        self.size = len(self._data)
        self.linked: list[int] = []
        """Offsets of records about base files with several names."""
        self.places: dict[int, list[int]] = {}
        """Upper inode -> offsets of the records that speak of it."""
        self.whole = self._run(0, start, self.places) == start
        """Whether the earlier log ends where a record does."""
        later: dict[int, list[int]] = {}
        self._run(start, self.size, later)
        self.later = sorted(later)
        """The upper inodes that records beyond the earlier log speak of."""
        for ino, found in later.items():
            self.places.setdefault(ino, []).extend(found)

    def _run(self, at: int, end: int, places: dict[int, list[int]]) -> int:
        """Note all records from ``at`` on; where they end."""
        data, glance = self._data, _GLANCE.unpack_from
        last = min(end, self.size) - _GLANCE.size
        while at <= last:
            magic, length, ino, mode, nlink = glance(data, at)
            if magic != origins.MAGIC:
                break
            if ino in places:
                places[ino].append(at)
            else:
                places[ino] = [at]
            if nlink > 1 and not stat.S_ISDIR(mode):
                self.linked.append(at)
            at += origins.HEAD + int(length)
        places.pop(0, None)
        return at

    def record(self, at: int, end: int) -> Record | None:
        """The record at an offset, if the first ``end`` bytes hold it whole."""
        size = origins.HEAD + int(_GLANCE.unpack_from(self._data, at)[1])
        return next(origins.decode(self._data[at : min(end, at + size)]), None)


@dataclass(slots=True)
class Recalled(Seen):
    """The log of one root up to a byte, known only as far as somebody asked.

    ``first`` is never whole.
    """

    log: Skim | None = None
    end: int = 0
    _known: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, log: Skim, root: int, end: int) -> Recalled:
        self = cls(log=log, end=end)
        for at in log.linked:
            self._take(at, root)
        return self

    def _take(self, at: int, root: int | None) -> None:
        assert self.log is not None
        record = self.log.record(at, self.end)
        if record is not None and root in (None, record.root):
            self.add(record)

    def shown(self, st: os.stat_result) -> os.stat_result:
        """As ever; whoever looks at an upper inode asks this first."""
        assert self.log is not None
        ino = st.st_ino
        if ino not in self._known:
            self._known.add(ino)
            for at in self.log.places.get(ino, ()):
                self._take(at, None)
        return Seen.shown(self, st)
