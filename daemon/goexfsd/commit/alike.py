"""A copy of a large file that shares its extents with another much like it.

What a session changed a little in a large file lies in the store whole: the before-image, which
lies there too, can be a reflink of it in which only what differs is written anew.  The copy is
exact whatever the other file holds, if only that stays as it is meanwhile: it lies in a
checkpoint, or is a before-image itself.
"""

from __future__ import annotations

import errno
import os

from goexfsd import kernel
from goexfsd.commit.faithful import copy_data, extents, reflink, write_at

WORTH = 1 << 20
"""Smaller files are copied."""
_CHUNK = 1 << 20
_PIECE = 64 << 10
"""What differs is written in pieces of so many bytes."""
_TRIED = 16 << 20
"""Having compared so much of it, of which half differed, it gives up comparing."""
_PUNCH = kernel.FALLOC_PUNCH_HOLE | kernel.FALLOC_KEEP_SIZE


def copy_alike(src: int, dst: int, size: int, like: int) -> None:
    """Make ``dst``, a new and empty file, hold the bytes and holes of ``src``; ``like`` is a file
    on the file system of ``dst``."""
    if reflink(src, dst):
        os.ftruncate(dst, size)
    elif reflink(like, dst):
        _Patch(src, dst, like)(size)
    else:
        copy_data(src, dst, size)


class _Patch:
    """What makes ``dst``, which is as ``like``, one as ``src``."""

    def __init__(self, src: int, dst: int, like: int) -> None:
        self._src, self._dst, self._like = src, dst, like
        self._ours, self._theirs = bytearray(_CHUNK), bytearray(_CHUNK)
        self._compared = self._differing = 0

    def __call__(self, size: int) -> None:
        os.ftruncate(self._dst, size)
        done = 0
        for start, end in extents(self._src, size):
            self._hole(done, start)
            for at in range(start, end, _CHUNK):
                self._chunk(at, min(_CHUNK, end - at))
            done = end
        os.ftruncate(self._dst, done)  # a hole to the end, also of a part of a block
        os.ftruncate(self._dst, size)

    def _hole(self, start: int, end: int) -> None:
        if start < end:
            kernel.fallocate(self._dst, _PUNCH, start, end - start)

    def _chunk(self, at: int, length: int) -> None:
        ours = memoryview(self._ours)[:length]
        count = os.preadv(self._src, [ours], at)
        self._hole(at + count, at + length)  # it became shorter under our hands
        hopeless = self._compared >= _TRIED and self._differing * 2 >= self._compared
        if hopeless or not self._solid(at, at + count):
            write_at(self._dst, ours[:count], at)
            return
        self._compared += count
        os.preadv(self._like, [memoryview(self._theirs)[:length]], at)
        if self._ours == self._theirs:
            return
        for start in range(0, count, _PIECE):
            piece = slice(start, min(start + _PIECE, count))
            if self._ours[piece] != self._theirs[piece]:
                self._differing += piece.stop - start
                write_at(self._dst, ours[piece], at + start)

    def _solid(self, start: int, end: int) -> bool:
        """Whether the other file has data there and no hole, so that the copy has them too."""
        try:
            return os.lseek(self._like, start, os.SEEK_HOLE) >= end
        except OSError as error:
            if error.errno == errno.ENXIO:
                return False  # it ends before
            raise
