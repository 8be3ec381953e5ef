"""Originals: the bytes that small base files had when the session first changed them.

A three-way merge needs them, and a live base does not keep them.  One append-only file in the
layer, so that a snapshot takes it along: a head, then the bytes, for one file after another.
A head names the version (device, inode, size, mtime), so nothing here can go stale: who looks
for the version that the origins log speaks of finds it or does not.

Only files up to ``LIMIT`` are kept, and of a layer no more than ``TOTAL``.  A missing original
costs a merge, never more; so nothing here fails, and what waits to be written (``flush``, before
every checkpoint) may be lost.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zlib
from dataclasses import dataclass

from goexfsd import kernel
from goexfsd.layer.origins import Identity

NAME = b"originals"
LIMIT = 256 * 1024
_PIECE = 256 * 1024
_PIECES = 512
TOTAL = 128 << 20

_HEAD = struct.Struct("<4sIHxxQQQq")  # magic, CRC-32, root, device, inode, size, mtime
_MAGIC = b"gxb1"
Version = tuple[int, int, int, int, int]
"""Root, device (0: the root's own), inode, size, mtime in ns."""


def version(root: int, identity: Identity) -> Version:
    """What an original is found by."""
    return root, identity.dev, identity.ino, identity.size, identity.mtime_ns


class Keeper:
    """The writing side, of one layer that is in use."""

    __slots__ = ("_fd", "_kept", "_layer_fd", "_length", "_pieces", "_waiting")

    def __init__(self, layer_fd: int) -> None:
        self._layer_fd = layer_fd
        self._fd = -1
        self._length = self._waiting = 0
        self._pieces: list[bytes] = []
        self._kept: set[Version] = set()

    def close(self) -> None:
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)

    def keep(self, root: int, identity: Identity, src: int, data: bytes | None = None) -> int:
        """Keep what ``src`` (a readable base file with that identity) holds, which is ``data`` if
        that is given; returns the bytes that it took."""
        size = identity.size
        if not 0 < size <= LIMIT or not stat.S_ISREG(identity.mode):
            return 0
        this = (root, identity.dev, identity.ino, size, identity.mtime_ns)
        if this in self._kept:
            return 0
        self._kept.add(this)
        with contextlib.suppress(OSError):
            if data is not None and len(data) == size:
                return self._append(this, data)
            data = os.pread(src, size, 0)
            now = os.fstat(src)
            if len(data) == now.st_size == size and now.st_mtime_ns == identity.mtime_ns:
                return self._append(this, data)
        return 0

    def _append(self, this: Version, data: bytes) -> int:
        if self._fd < 0:
            self._open()
        total = _HEAD.size + len(data)
        if self._length + self._waiting + total > TOTAL:
            return 0
        self._pieces += (_HEAD.pack(_MAGIC, zlib.crc32(data), *this), data)
        self._waiting += total
        if self._waiting > _PIECE or len(self._pieces) > _PIECES:
            self.flush()
        return total

    def flush(self) -> None:
        """Write what waits.  (A small write to btrfs costs as much as a large one.)"""
        if not self._pieces:
            return
        pieces, total = self._pieces, self._waiting
        self._pieces, self._waiting = [], 0
        with contextlib.suppress(OSError):
            if os.writev(self._fd, pieces) == total:
                self._length += total
            else:  # a full store: what is half there is no original
                os.ftruncate(self._fd, self._length)

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(NAME, flags, 0o600, dir_fd=self._layer_fd)
        found, self._length = _scan(self._fd)
        self._kept |= found.keys()
        os.ftruncate(self._fd, self._length)  # a torn end


@dataclass(slots=True)
class Originals:
    """The reading side."""

    _fd: int
    _places: dict[Version, tuple[int, int, int]]

    def get(self, root: int, identity: Identity) -> bytes | None:
        """The bytes of that version of a base file; None if they were not kept."""
        if identity.size == 0:
            return b""
        place = self._places.get(version(root, identity))
        if place is None:
            return None
        at, size, crc = place
        data = os.pread(self._fd, size, at)
        return data if len(data) == size and zlib.crc32(data) == crc else None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def read(layer_fd: int) -> Originals:
    """The originals of a layer."""
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer_fd)
    except FileNotFoundError:
        return Originals(-1, {})
    return Originals(fd, _scan(fd)[0])


def found(lower_fd: int, path: bytes, identity: Identity) -> bytes | None:
    """The bytes of that version of a base file where the session sees a snapshot, which has it."""
    try:
        fd = kernel.open_beneath(lower_fd, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        st = os.fstat(fd)
        same = (st.st_ino, st.st_size, st.st_mtime_ns) == (
            identity.ino,
            identity.size,
            identity.mtime_ns,
        )
        return file.read(LIMIT) if same and st.st_size <= LIMIT else None


def _scan(fd: int) -> tuple[dict[Version, tuple[int, int, int]], int]:
    """Where the bytes of each version are (offset, size, CRC), and how much of the file is good."""
    found: dict[Version, tuple[int, int, int]] = {}
    at, end = 0, os.fstat(fd).st_size
    while True:
        head = os.pread(fd, _HEAD.size, at)
        if len(head) < _HEAD.size:
            return found, at
        magic, crc, *this = _HEAD.unpack(head)
        size = this[3]
        if magic != _MAGIC or at + _HEAD.size + size > end:
            return found, at
        root, dev, ino, size, mtime_ns = this
        found.setdefault((root, dev, ino, size, mtime_ns), (at + _HEAD.size, size, crc))
        at += _HEAD.size + size
