"""A base that its user changes under a session, and what the session shows over it then."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from goexfsd.layer.changes import Views, open_views
from goexfsd.layer.tree import Entry, Tree
from goexfsd.worker import Root
from layering import Item, Session


class Hand:
    """The user, who works on the base itself; the operations are those of a session."""

    def __init__(self, base: bytes) -> None:
        self.model = base
        self._held: list[int] = []

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)

    def _at(self, path: bytes) -> bytes:
        real = self.model + b"/" + path if path else self.model
        if os.path.lexists(real):  # its inode number shall not be used again
            self._held.append(os.open(real, os.O_PATH | os.O_NOFOLLOW))
        return real

    def write(self, path: bytes, data: bytes) -> None:
        Path(os.fsdecode(self._at(path))).write_bytes(data)

    def touch(self, path: bytes) -> None:
        os.utime(self._at(path), follow_symlinks=False)

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self._at(path))

    def symlink(self, path: bytes, target: bytes) -> None:
        os.symlink(target, self._at(path))

    def mkfifo(self, path: bytes) -> None:
        os.mkfifo(self._at(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def remove(self, path: bytes) -> None:
        real = self._at(path)
        if stat.S_ISDIR(os.lstat(real).st_mode):
            for name in os.listdir(real):
                self.remove(path + b"/" + name)
            os.rmdir(real)
        else:
            os.unlink(real)

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def rename(self, old: bytes, new: bytes) -> None:
        os.rename(self._at(old), self._at(new))

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: bytes, uid: int) -> None:
        os.chown(self._at(path), uid, -1, follow_symlinks=False)

    def utime(self, path: bytes, when: int) -> None:
        os.utime(self._at(path), ns=(when, when), follow_symlinks=False)

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)


Shown = tuple[object, ...]


def view(session: Session) -> dict[bytes, Shown]:
    """What the layer shows over the base as it is now."""
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    top = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        with open_views(None, layer, [Root(0, "r", "")], [top]) as views:
            return shown_by(views[0])
    finally:
        os.close(layer)
        os.close(top)


def shown_by(views: Views) -> dict[bytes, Shown]:
    tree = views.new
    return {entry.path: _entry(tree, entry) for entry in [tree.top, *tree.walk(tree.top)]}


def _entry(tree: Tree, entry: Entry) -> Shown:
    data = b""
    if stat.S_ISREG(entry.st.st_mode):
        fd = tree.open(entry)
        if fd is not None:
            with os.fdopen(fd, "rb") as file:
                data = file.read()
    elif stat.S_ISLNK(entry.st.st_mode):
        data = tree.target(entry)
    st = entry.st
    xattrs = tuple(sorted(tree.xattrs(entry).items()))
    return _shown(st.st_mode, (st.st_uid, st.st_gid), xattrs, data, st.st_rdev)


def _shown(mode: int, owner: object, xattrs: object, data: bytes, rdev: int) -> Shown:
    bits = 0 if stat.S_ISLNK(mode) else stat.S_IMODE(mode)
    return stat.S_IFMT(mode), bits, owner, xattrs, data, rdev


def of_base(tree: dict[bytes, Item]) -> dict[bytes, Shown]:
    return {
        path: _shown(item.kind | item.mode, item.owner, item.xattrs, item.data, item.rdev)
        for path, item in tree.items()
    }
