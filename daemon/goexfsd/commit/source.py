"""What is to be committed: the upper tree of a read-only checkpoint, as a commit reads it.

Entries are opened beneath their root's upper directory, no symlink followed, and are checked to
be the inode that the change list spoke of.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from goexfs.errors import Denied, Internal
from goexfs.names import display
from goexfsd import kernel
from goexfsd.commit.base import GONE
from goexfsd.commit.faithful import DATA, HANDLE, Meta, layer_xattrs_of, small_data
from goexfsd.commit.places import leaf, parent
from goexfsd.layer.changes import Change, Root
from goexfsd.layer.format import ACCESS_ACL, INDEX, UPPER, acl_with_mode
from goexfsd.layer.seen import Seen

_KEEP = 256


class Source:
    """The layer that is committed."""

    def __init__(
        self,
        layer_fd: int,
        roots: Sequence[Root],
        changes: Iterable[Change],
        seen: Mapping[int, Seen],
    ) -> None:
        self._seen = seen
        self._index = kernel.open_beneath(layer_fd, INDEX, os.O_PATH | os.O_DIRECTORY)
        self._elsewhere = {
            (change.root, change.upper_ino): change.source
            for change in changes
            if change.source is not None
        }
        self._kept: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._told: tuple[Change, Meta] | None = None
        """What ``data`` was asked last, with its attributes: they are asked for next."""
        self._tops = {
            root.index: kernel.open_beneath(
                layer_fd, UPPER + b"/" + os.fsencode(root.name), os.O_PATH | os.O_DIRECTORY
            )
            for root in roots
        }

    def close(self) -> None:
        os.close(self._index)
        for fd in (*self._tops.values(), *self._kept.values()):
            os.close(fd)
        self._kept.clear()

    def _open(self, root: int, path: bytes, flags: int) -> int:
        directory = self._directory(root, parent(path))
        # A name and no path: with O_NOFOLLOW it leads to what is in the directory, nowhere else.
        return os.open(leaf(path) or b".", flags | os.O_NOFOLLOW, dir_fd=directory)

    def _directory(self, root: int, path: bytes) -> int:
        if not path:
            return self._tops[root]
        fd = self._kept.get((root, path))
        if fd is None:
            fd = self._kept[root, path] = kernel.open_dir_beneath(self._tops[root], path)
            if len(self._kept) > _KEEP:
                os.close(self._kept.popitem(last=False)[1])
        else:
            self._kept.move_to_end((root, path))
        return fd

    def _found(self, change: Change, flags: int) -> int:
        """Open the upper inode of a change: under its own name, else under another it has."""
        path = change.source or self._elsewhere.get((change.root, change.upper_ino))
        if path is not None:
            return self._open(change.root, path, flags)
        return kernel.open_beneath(self._index, self._indexed(change), flags)

    def _entry(self, change: Change, flags: int) -> int:
        fd = self._found(change, flags)
        if change.upper_ino:
            self._check(change, fd, os.fstat(fd))
        return fd

    def _check(self, change: Change, fd: int, st: os.stat_result) -> None:
        """What is open is what the change list spoke of; else it is closed."""
        if change.upper_ino and st.st_ino != change.upper_ino:
            os.close(fd)
            raise Internal(f"the layer has another inode at {display(change.path)}")

    def _indexed(self, change: Change) -> bytes:
        copy = self._seen[change.root].copies.get(change.upper_ino)
        if copy is None:
            raise Internal(f"the layer has no inode for {display(change.path)}")
        return b"%d-%x-%x" % (change.root, copy.identity.dev, copy.identity.ino)

    def handle(self, change: Change) -> int:
        """An O_PATH descriptor of the changed entry."""
        return self._entry(change, HANDLE)

    def meta(self, change: Change) -> Meta:
        """All attributes as the view shows them."""
        if self._told is not None and self._told[0] is change:
            return self._told[1]
        fd = self.handle(change)
        try:
            return self._meta_of(change, fd, opened=False)
        finally:
            os.close(fd)

    def _meta_of(self, change: Change, fd: int, *, opened: bool) -> Meta:
        assert change.st is not None
        link = stat.S_ISLNK(change.st.st_mode)
        target = os.readlink(b"", dir_fd=fd) if link else None
        xattrs = layer_xattrs_of(fd, opened=opened)
        if ACCESS_ACL in xattrs:
            xattrs[ACCESS_ACL] = acl_with_mode(xattrs[ACCESS_ACL], change.st.st_mode)
        return Meta.of(change.st, xattrs, target)

    def data(self, change: Change) -> int | bytes:
        """The bytes of a changed regular file if they are few, else a descriptor to read them."""
        try:
            fd = self._found(change, DATA)
        except PermissionError as error:
            raise Denied(
                f"{display(change.path)} cannot be read: it has no read permission",
                hint="give it back its read permission in the session, then commit",
            ) from error
        st = os.fstat(fd)
        self._check(change, fd, st)
        try:
            self._told = change, self._meta_of(change, fd, opened=True)
            data = small_data(fd, st)
        except BaseException:
            os.close(fd)
            raise
        if data is None:
            return fd
        os.close(fd)
        return data

    def directory_times(self, root: int, path: bytes) -> tuple[int, int] | None:
        """(atime, mtime) in ns of a directory of the view, if the layer has a copy of it."""
        try:
            fd = kernel.open_dir_beneath(self._tops[root], path)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        try:
            st = os.fstat(fd)
            if st.st_ino not in self._seen[root].copies:
                return None  # only there to hold what is below it
            return st.st_atime_ns, st.st_mtime_ns
        finally:
            os.close(fd)
