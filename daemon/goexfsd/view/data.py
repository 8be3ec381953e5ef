"""Handlers for file contents: open, read, write, truncate, fsync, release.

An open handle belongs to a node, not to a descriptor: all handles of a node share one backing
file, and when the node is copied up they all go on with the copy.  Upper files are opened for
reading and writing whatever the caller asked for (the page cache reads under a write-only
handle); the caller's flags O_APPEND, O_DIRECT and O_SYNC are the kernel's business.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator

from pyfuse3 import FileInfo

from goexfsd import kernel
from goexfsd.layer.quota import BLOCK
from goexfsd.layer.writer import fd_path
from goexfsd.view.handling import Context, State, handler, in_thread
from goexfsd.view.node import Node

_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_SPECIAL = stat.S_ISUID | stat.S_ISGID
_RANGE = 16 << 20
"""Bytes that are copied at once while everybody waits."""


def as_opened(done: tuple[int, bool]) -> FileInfo:
    return FileInfo(fh=done[0], keep_cache=done[1])


class Data(State):
    """open … release."""

    @functools.partial(handler, answer=as_opened)
    def open(self, inode: int, flags: int, ctx: Context) -> tuple[int, bool]:
        """The handle, and whether the pages that the kernel has of the file are good."""
        node = self.known(inode)
        kills = ctx.uid != 0 and self.tree.layer.privileged
        if flags & os.O_TRUNC:
            self.truncate(node, 0, kills)
        if node.fd >= 0 and not node.upper and not node.gone:
            self.tree.check_place(node)
        reading = flags & os.O_ACCMODE != os.O_WRONLY
        self._need(node, reading=reading, writing=False)
        if reading and not node.upper:
            layer = self.tree.layer
            if layer.step and node.key not in layer.reads.known and not node.gone:
                layer.reads.note(node.key, self.tree.lower_file(node), os.fstat(node.fd))
        node.opens += 1
        same = node.upper or self.tree.stable[node.root] or self._is_as_read(node)
        return node.id << 1 | kills, same

    @handler
    def read(self, fh: int, off: int, size: int) -> bytes:
        return os.pread(self.readable(fh).fd, size, off)

    def readable(self, fh: int) -> Node:
        """The node of a handle, about to be read from."""
        node = self.known(fh >> 1)
        if not node.readable:
            self._need(node, reading=True, writing=False)
        if not node.upper and not self.tree.stable[node.root]:
            self._is_as_read(node)
        return node

    def _is_as_read(self, node: Node) -> bool:
        """Whether a live base file is what the kernel knows of it, and read its pages from.

        If not, the kernel is made to ask for its size and times before it believes what it has
        of it.  (Telling it to drop the pages would wait for the very page that it asks for.)
        """
        st = os.fstat(node.fd)
        version = (st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        was, node.version = node.version, version
        if version == node.told and was in (None, version):
            return True
        self.forget_attributes(node.id)
        return False

    @handler
    def write(self, fh: int, off: int, buf: bytes) -> int:
        return self.put(fh >> 1, off, buf, kills=bool(fh & 1))

    def put(self, inode: int, off: int, buf: bytes | memoryview, *, kills: bool) -> int:
        """Write into a file; ``kills``: the writer may not leave set-id bits on it."""
        node = self._written_to(inode)
        layer = self.tree.layer
        if layer.quota is not None:
            layer.quota.want_write(node.fd, len(buf), off)
            with self._counted(node.fd):
                done = os.pwrite(node.fd, buf, off)
        else:
            done = os.pwrite(node.fd, buf, off)
            while done < len(buf):
                done += os.pwrite(node.fd, buf[done:], off + done)
        if kills and layer.privileged:  # else the disk did it
            self.drop_set_ids(node)
        return done

    def allocate(self, inode: int, mode: int, off: int, length: int, *, kills: bool) -> None:
        """fallocate(2), its modes as the store's file system has them."""
        node = self._written_to(inode)
        quota = self.tree.layer.quota
        if quota is not None and not mode & kernel.FALLOC_PUNCH_HOLE:
            quota.want_write(node.fd, length, off)
        with self._counted(node.fd):
            kernel.fallocate(node.fd, mode, off, length)
        if kills:
            self.drop_set_ids(node)

    def copy_range(
        self, inode: int, off: int, to: int, at: int, length: int, *, kills: bool
    ) -> int:
        """copy_file_range(2), a bounded piece of it; what the store can share it shares.

        EXDEV (the source is in the base, on another file system): the kernel copies itself.
        """
        source = self.readable(inode << 1)
        node = self._written_to(to)
        if node is source:  # it was copied up just now
            source = self.readable(inode << 1)
        length = min(length, _RANGE)
        if self.tree.layer.quota is not None:
            self.tree.layer.quota.want(length)
        with self._counted(node.fd):
            done = os.copy_file_range(source.fd, node.fd, length, off, at)
        if kills:
            self.drop_set_ids(node)
        return done

    def _written_to(self, inode: int) -> Node:
        """The node of an open file that is about to be changed."""
        node = self.known(inode)
        if not node.writable:
            self._need(node, reading=False, writing=True)
        self.tree.layer.changes += 1
        return node

    @contextlib.contextmanager
    def _counted(self, fd: int) -> Iterator[None]:
        """What a file grows by meanwhile counts."""
        quota = self.tree.layer.quota
        if quota is None:
            yield
            return
        before = os.fstat(fd).st_blocks
        yield
        quota.spend((os.fstat(fd).st_blocks - before) * BLOCK)

    @handler
    def release(self, fh: int) -> None:
        node = self.known(fh >> 1)
        node.opens -= 1
        if node.opens == 0:
            if not node.gone:
                self.tree.close_file(node)
            self.tree.table.collect(node)

    @in_thread
    def fsync(self, fh: int, datasync: bool) -> Callable[[], None]:
        node = self.known(fh >> 1)
        if not node.upper or node.fd < 0:
            return nothing
        return self._syncing(os.dup(node.fd), datasync)

    def _syncing(self, fd: int, datasync: bool) -> Callable[[], None]:
        """Work for a thread: the records first, then what they speak of."""
        layer = self.tree.layer

        def sync() -> None:
            try:
                layer.sync_records()
                (os.fdatasync if datasync else os.fsync)(fd)
            finally:
                os.close(fd)

        return sync

    # -- backing files -------------------------------------------------------------------------

    def truncate(self, node: Node, size: int, kills: bool) -> None:
        """Set a file's size; what lies beyond is not even copied up."""
        self.changer.copy_up(node, size)
        self.tree.layer.changes += 1
        if node.writable:
            self._set_size(node.fd, size)
        else:
            fd = self._open_upper(node, os.O_WRONLY)
            try:
                self._set_size(fd, size)
            finally:
                os.close(fd)
        if kills:
            self.drop_set_ids(node)

    def _set_size(self, fd: int, size: int) -> None:
        with self._counted(fd):
            os.ftruncate(fd, size)

    def drop_set_ids(self, node: Node) -> None:
        """What the disk does when another than root changes a file."""
        st = self.tree.status(node)
        mode = stat.S_IMODE(st.st_mode)
        if not mode & _SPECIAL:
            return
        kept = mode & ~stat.S_ISUID
        if mode & stat.S_IXGRP:
            kept &= ~stat.S_ISGID
        if kept != mode:
            path, follow = self.tree.path(node)
            if follow:
                os.chmod(path, kept)
            else:
                name, at = self.tree.place(node)
                os.chmod(name, kept, dir_fd=at)

    def _need(self, node: Node, *, reading: bool, writing: bool) -> None:
        """Have a backing file that can do this."""
        if node.kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, "not a regular file")
        if writing:
            self.changer.copy_up(node)
        if node.upper:
            self._open_backing(node, reading, writing)
        elif not node.readable:
            self._open_lower(node)

    def _open_lower(self, node: Node) -> None:
        if node.gone:
            fd = os.open(fd_path(node.fd), os.O_RDONLY | os.O_CLOEXEC)
        else:
            fd = self.tree.open_lower(node)
        self._replace_fd(node, fd, readable=True, writable=False)

    def _open_backing(self, node: Node, reading: bool, writing: bool) -> None:
        if (
            node.readable >= reading
            and node.writable >= writing
            and (node.readable or node.writable)
        ):
            return
        for flags in (os.O_RDWR, os.O_RDONLY, os.O_WRONLY):
            readable, writable = flags != os.O_WRONLY, flags != os.O_RDONLY
            if (reading and not readable) or (writing and not writable):
                continue
            try:
                fd = self._open_plainly(node, flags)
            except PermissionError:
                continue
            self._replace_fd(node, fd, readable=readable, writable=writable)
            return
        fd = self._open_upper(node, os.O_RDWR)
        self._replace_fd(node, fd, readable=True, writable=True)

    def _open_plainly(self, node: Node, flags: int) -> int:
        if node.gone:
            return os.open(fd_path(node.fd), flags | os.O_CLOEXEC)
        name, at = self.tree.upper_place(node)
        return os.open(name, flags | _FILE, dir_fd=at)

    def _open_upper(self, node: Node, flags: int) -> int:
        """Open an upper file, lending the owner rights on it if need be."""
        try:
            return self._open_plainly(node, flags)
        except PermissionError:
            if node.gone:
                raise
        return self.changer.act((node,), self._open_plainly, node, flags)

    def _replace_fd(self, node: Node, fd: int, *, readable: bool, writable: bool) -> None:
        if node.fd >= 0:
            os.close(node.fd)
        node.fd, node.readable, node.writable = fd, readable, writable


def nothing() -> None:
    """A base file is as durable as it is."""
