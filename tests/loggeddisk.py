"""A file system with one file a disk, which logs what is written to each and when it is flushed.

A program of its own (``python loggeddisk.py MOUNT LOG SIZE NAME...``): block devices made over its
files with ``losetup --direct-io`` send it every write and, for the loop device announces a
write-back cache, every flush.  ``power`` starts it and rebuilds from the log what a power cut may
leave.  A write to the file ``mark`` puts a mark into the same log: one order for all disks.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys

import pyfuse3
import trio

RECORD = struct.Struct("<BBQI")
"""Kind, number of the disk, offset, length of the data that follow."""
WRITE, FLUSH, MARK = range(3)
_FIRST = pyfuse3.ROOT_INODE + 1


class Disks(pyfuse3.Operations):
    """The disks, and ``mark`` after them; handlers await nothing, so the log is in their order."""

    def __init__(self, log: int, size: int, names: list[str]) -> None:
        super().__init__()
        self._log, self._size = log, size
        self._names = [*map(os.fsencode, names), b"mark"]
        self._files = [os.memfd_create(name) for name in names]
        for file in self._files:
            os.ftruncate(file, size)

    def _put(self, kind: int, disk: int, offset: int = 0, data: bytes = b"") -> None:
        os.write(self._log, RECORD.pack(kind, disk, offset, len(data)) + data)

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.entry_timeout = entry.attr_timeout = 3600
        if inode == pyfuse3.ROOT_INODE:
            entry.st_mode = stat.S_IFDIR | 0o700
        else:
            entry.st_mode = stat.S_IFREG | 0o600
            entry.st_size = self._size if inode - _FIRST < len(self._files) else 0
        return entry

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name not in self._names:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(pyfuse3.InodeT(_FIRST + self._names.index(name)))

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        return await self.getattr(inode)

    async def open(
        self, inode: pyfuse3.InodeT, flags: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        number = inode - _FIRST
        return pyfuse3.FileInfo(
            fh=pyfuse3.FileHandleT(number), direct_io=number == len(self._files)
        )

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return os.pread(self._files[fh], size, off)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        if fh == len(self._files):
            self._put(MARK, 0, 0, buf)
        else:
            os.pwrite(self._files[fh], buf, off)
            self._put(WRITE, fh, off, buf)
        return len(buf)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        if fh < len(self._files):
            self._put(FLUSH, fh)


def main() -> None:
    mount, log, size, *names = sys.argv[1:]
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pyfuse3.init(Disks(fd, int(size), names), mount, {"fsname=loggeddisk"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
