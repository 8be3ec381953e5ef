"""The base as a commit reads it: directories by path below a kept root descriptor.

Every look goes through an O_PATH descriptor of the directory, opened beneath the root without
following any symlink; a few hundred are kept.  Nothing is changed here.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence

from goexfsd import kernel
from goexfsd.commit.places import leaf, parent

_KEEP = 256
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What openat2 says when the way to a directory is not what it was."""


class Base:
    """The roots' directories, for looking."""

    def __init__(self, root_fds: Sequence[int]) -> None:
        self.root_fds = root_fds
        self.root_devs = [os.fstat(fd).st_dev for fd in root_fds]
        self._kept: OrderedDict[tuple[int, bytes], int] = OrderedDict()
        self._last, self._last_fd = (-1, b""), -1
        self._known: dict[tuple[int, bytes], os.stat_result | None] | None = None
        self._extras: dict[tuple[int, bytes], tuple[int, int]] = {}
        self._mounted_on: frozenset[int] | None = None
        self._mountless: dict[tuple[int, bytes], bool] = {}
        """Directories -> whether nothing is mounted anywhere on the mount that they lie on."""

    def directory(self, root: int, path: bytes) -> int:
        """A descriptor of the directory, valid until 256 others have been asked for."""
        if not path:
            return self.root_fds[root]
        key = (root, path)
        if key == self._last:
            return self._last_fd
        fd = self._kept.get(key)
        if fd is None:
            fd = self._kept[key] = kernel.open_dir_beneath(self.root_fds[root], path)
            if len(self._kept) > _KEEP:
                os.close(self._kept.popitem(last=False)[1])
        else:
            self._kept.move_to_end(key)
        self._last, self._last_fd = key, fd
        return fd

    def at(self, root: int, path: bytes) -> tuple[int, bytes]:
        """(directory descriptor, name) of an entry; the root itself is (its descriptor, b"")."""
        if not path:
            return self.root_fds[root], b""
        return self.directory(root, parent(path)), leaf(path)

    def lstat(self, root: int, path: bytes) -> os.stat_result:
        """lstat of an entry; OSError as the call says."""
        if self._known is not None:
            known = self._known.get((root, path))
            if known is not None:
                return known
        if not path:
            return os.fstat(self.root_fds[root])
        above, _, name = path.rpartition(b"/")
        st = os.stat(name, dir_fd=self.directory(root, above), follow_symlinks=False)
        if self._known is not None:
            self._known[root, path] = st
        return st

    def look(self, root: int, path: bytes) -> os.stat_result | None:
        """lstat, or None where there is nothing (or no directory to hold it)."""
        if self._known is not None and (root, path) in self._known:
            return self._known[root, path]
        try:
            return self.lstat(root, path)
        except OSError as error:
            if error.errno in GONE:
                if self._known is not None:
                    self._known[root, path] = None
                return None
            raise

    def is_directory(self, root: int, path: bytes) -> bool:
        """Whether there is a directory."""
        st = self.look(root, path)
        return st is not None and stat.S_ISDIR(st.st_mode)

    def extra(self, root: int, path: bytes) -> tuple[int, int]:
        """``kernel.statx_extra`` of an entry."""
        if self._known is None:
            return kernel.statx_extra(*self.at(root, path))
        found = self._extras.get((root, path))
        if found is None:
            found = self._extras[root, path] = kernel.statx_extra(*self.at(root, path))
        return found

    def is_mounted(self, root: int, path: bytes) -> bool:
        """Whether something is mounted on the entry."""
        key = root, parent(path)
        if key not in self._mountless:
            if self._mounted_on is None:
                self._mounted_on = kernel.mounted_on()
            _, mount = kernel.statx_extra(self.directory(*key), b"")
            self._mountless[key] = mount not in self._mounted_on
        return not self._mountless[key] and bool(self.extra(root, path)[0] & kernel.ATTR_MOUNT_ROOT)

    def known(self, root: int, path: bytes, st: os.stat_result) -> None:
        """Somebody else has looked at this entry; only between ``remember`` and ``forget``."""
        assert self._known is not None
        self._known[root, path] = st

    def remember(self) -> None:
        """From now until ``forget`` an entry that was looked at is what it was then.

        For the drawing of a plan, which looks at everything several times and would only be
        confused by what changes meanwhile; that is found by the check that follows.
        """
        self._known = {}

    def forget(self) -> None:
        """Every look is a new one again."""
        self._known = None
        self._extras = {}
        self._mounted_on = None
        self._mountless = {}

    def open(self, root: int, path: bytes, flags: int) -> int:
        """Open an entry itself (never through a symlink)."""
        directory, name = self.at(root, path)
        return kernel.open_beneath(directory, name, flags)

    def close(self) -> None:
        """Close the kept descriptors and start anew (paths may lead elsewhere by now)."""
        self.forget()
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()
        self._last = -1, b""


def type_of(mode: int) -> str:
    """The name of a file type: file, dir, symlink, fifo, socket, char, block."""
    return _TYPES[stat.S_IFMT(mode)]


_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
