"""Reads: which base files the session's scripts have read, and which version of each.

An append-only file in the layer: blocks of records, each block with its checksum.  The first
record of a path counts: what was read first is what later work may rest on.  A script reads a
file by opening it for reading; looking at its name or attributes, or listing a directory, is
not counted.  Reads outside of steps (by a person in the view) are not either.

The writing side is in the view's hottest path: one look into a set for a file that is known, one
``fstat`` and one append to a buffer for a new one.  Its memory is bounded; the log too: beyond
``TOTAL`` it only says that it is not complete.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from goexfsd.layer.tree import Dirs

NAME = b"reads"
TOTAL = 64 << 20
_PIECE = 64 << 10
_KNOWN = 1 << 17
"""Files that are remembered as noted; more than that are noted again now and then."""

_HEAD = struct.Struct("<4sII")  # magic, length, CRC-32
_READ = struct.Struct("<HHQQQq")  # root, length of the path, device, inode, size, mtime
_MAGIC = b"gxr1"
_OVERFLOW = 0xFFFF

Key = tuple[int, int, int]
Place = tuple[int, bytes]
"""Root index and path in the base."""
Version = tuple[int, int, int, int]
"""Device (0: the root's own), inode, size, mtime in ns."""


class ReadLog:
    """The writing side."""

    __slots__ = ("_buffer", "_fd", "_layer_fd", "_length", "_root_devs", "known")

    def __init__(self, layer_fd: int, root_devs: Sequence[int]) -> None:
        self._layer_fd, self._root_devs = layer_fd, root_devs
        self._fd, self._length = -1, 0
        self._buffer = bytearray()
        self.known: set[Key | None] = set()
        """Base files that are noted already."""

    def note(self, key: Key | None, path: bytes, st: os.stat_result) -> None:
        """The base file ``key``, at ``path``, is read as it is by ``st``."""
        if key is None or len(path) >= _OVERFLOW:
            return
        if len(self.known) >= _KNOWN:
            self.known.clear()
        self.known.add(key)
        root = key[0]
        dev = 0 if st.st_dev == self._root_devs[root] else st.st_dev
        self._buffer += (
            _READ.pack(root, len(path), dev, st.st_ino, st.st_size, st.st_mtime_ns) + path
        )
        if len(self._buffer) > _PIECE:
            self.flush()

    def flush(self) -> None:
        """Write what was noted; losing it (a full store) costs strictness, and says so."""
        if not self._buffer:
            return
        data, self._buffer = self._buffer, bytearray()
        with contextlib.suppress(OSError):
            if self._fd < 0:
                self._open()
            if self._length > TOTAL:
                return
            if self._length + len(data) > TOTAL:
                data = bytearray(_READ.pack(_OVERFLOW, 0, 0, 0, 0, 0))
                self._length = TOTAL
            block = _HEAD.pack(_MAGIC, len(data), zlib.crc32(data)) + data
            self._length += os.write(self._fd, block)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(NAME, flags, 0o600, dir_fd=self._layer_fd)
        self._length = os.fstat(self._fd).st_size

    def close(self) -> None:
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)


def load(layer_fd: int) -> tuple[dict[Place, Version], bool]:
    """What was read first of each path, and whether that is all."""
    found: dict[Place, Version] = {}
    data = _content(layer_fd)
    complete, at = True, 0
    while at + _HEAD.size <= len(data):
        magic, length, crc = _HEAD.unpack_from(data, at)
        block = data[at + _HEAD.size : at + _HEAD.size + length]
        if magic != _MAGIC or len(block) != length or zlib.crc32(block) != crc:
            return found, False
        complete &= _block(block, found)
        at += _HEAD.size + length
    return found, complete and at == len(data)


def _content(layer_fd: int) -> bytes:
    try:
        fd = os.open(NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layer_fd)
    except FileNotFoundError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _block(block: bytes, found: dict[Place, Version]) -> bool:
    at = 0
    while at < len(block):
        root, length, dev, ino, size, mtime_ns = _READ.unpack_from(block, at)
        if root == _OVERFLOW:
            return False
        path = block[at + _READ.size : at + _READ.size + length]
        found.setdefault((root, path), (dev, ino, size, mtime_ns))
        at += _READ.size + length
    return True


def forget(layer_fd: int, stays: Callable[[Place, Version], bool]) -> None:
    """Forget what was read of the files that do not stay.  Durable, and atomic."""
    found, complete = load(layer_fd)
    if not found:
        return
    data = bytearray()
    for place, version in found.items():
        if stays(place, version):
            data += _READ.pack(place[0], len(place[1]), *version) + place[1]
    if not complete:
        data += _READ.pack(_OVERFLOW, 0, 0, 0, 0, 0)
    aside = NAME + b".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(aside, flags, 0o600, dir_fd=layer_fd), "wb") as file:
        file.write(_HEAD.pack(_MAGIC, len(data), zlib.crc32(data)) + data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(aside, NAME, src_dir_fd=layer_fd, dst_dir_fd=layer_fd)


def stale(
    read: Mapping[Place, Version], root_fds: Sequence[int]
) -> Iterator[tuple[Place, str, Version | None]]:
    """What was read and is not so any more: the place, what happened, and what is there now."""
    sides = [(Dirs(fd), os.fstat(fd).st_dev) for fd in root_fds]
    try:
        for place in sorted(read):
            dirs, root_dev = sides[place[0]]
            now = _version(dirs, place[1], root_dev)
            if isinstance(now, str):
                yield place, now, None
            elif now[:2] != read[place][:2]:
                yield place, "it was replaced by another in the base", now
            elif now != read[place]:
                yield place, "its contents changed in the base", now
    finally:
        for dirs, _ in sides:
            dirs.close()


def _version(dirs: Dirs, path: bytes, root_dev: int) -> Version | str:
    above, _, name = path.rpartition(b"/")
    try:
        st = os.stat(name, dir_fd=dirs.fd(above), follow_symlinks=False)
    except OSError:
        return "it was deleted or moved away in the base"
    if not stat.S_ISREG(st.st_mode):
        return "it is no file any more in the base"
    return (
        0 if st.st_dev == root_dev else st.st_dev,
        st.st_ino,
        st.st_size,
        st.st_mtime_ns,
    )
