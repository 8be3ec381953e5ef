"""Two trees side by side, one of them a view: the same operations on both, and how they compare."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from goexfsd import kernel


@contextlib.contextmanager
def acting(uid: int) -> Iterator[None]:
    """Do as this user would."""
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class Side:
    """One of the two trees, with its open handles."""

    def __init__(self, top: Path) -> None:
        self.top = os.fsencode(top)
        self.handles: list[int] = []

    def at(self, path: str) -> bytes:
        return os.path.join(self.top, path.encode())

    def do(self, op: tuple[Any, ...]) -> Any:
        """Carry out; the result, or the errno."""
        name = op[0].replace("-", "_")
        try:
            return getattr(self, f"do_{name}")(*op[1:])
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "other")

    def _put(self, path: str, flags: int, data: bytes, at: int | None = None) -> None:
        fd = os.open(self.at(path), flags | os.O_NONBLOCK, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return
            if at is None:
                os.write(fd, data)
            else:
                os.pwrite(fd, data, at)
        finally:
            os.close(fd)

    def do_write(self, path: str, at: int, data: bytes) -> None:
        self._put(path, os.O_WRONLY, data, at)

    def do_append(self, path: str, data: bytes) -> None:
        self._put(path, os.O_WRONLY | os.O_APPEND, data)

    def do_replace(self, path: str, data: bytes) -> None:
        self._put(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, data)

    def do_create(self, path: str, data: bytes) -> None:
        self._put(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, data)

    def do_truncate(self, path: str, size: int) -> None:
        os.truncate(self.at(path), size)

    def do_mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.at(path), mode)

    def do_rmdir(self, path: str) -> None:
        os.rmdir(self.at(path))

    def do_unlink(self, path: str) -> None:
        os.unlink(self.at(path))

    def do_rmtree(self, path: str) -> None:
        self._remove_all(self.at(path))

    def _remove_all(self, path: bytes) -> None:
        """In sorted order, so that both sides stop at the same entry."""
        for name in sorted(os.listdir(path)):
            below = os.path.join(path, name)
            if stat.S_ISDIR(os.lstat(below).st_mode):
                self._remove_all(below)
            else:
                os.unlink(below)
        os.rmdir(path)

    def do_rename(self, old: str, new: str, flags: int) -> None:
        kernel.renameat2(kernel.AT_FDCWD, self.at(old), kernel.AT_FDCWD, self.at(new), flags)

    def do_link(self, old: str, new: str) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def do_symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.at(path))

    def do_mkfifo(self, path: str) -> None:
        os.mkfifo(self.at(path))

    def do_chmod(self, path: str, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def do_chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self.at(path), uid, gid, follow_symlinks=False)

    def do_utime(self, path: str, when: int) -> int:
        os.utime(self.at(path), ns=(when, when), follow_symlinks=False)
        return os.lstat(self.at(path)).st_mtime_ns

    def do_setxattr(self, path: str, name: str, value: bytes) -> None:
        os.setxattr(self.at(path), name, value, follow_symlinks=False)

    def do_removexattr(self, path: str, name: str) -> None:
        os.removexattr(self.at(path), name, follow_symlinks=False)

    def do_look(self, path: str) -> Any:
        if stat.S_ISDIR(os.lstat(self.at(path)).st_mode):
            return sorted(os.listdir(self.at(path)))
        return _bytes(self.at(path))

    def do_listdir(self, path: str) -> list[bytes]:
        return sorted(os.listdir(self.at(path)))

    def do_open(self, path: str) -> None:
        flags = os.O_RDWR | os.O_NONBLOCK
        fd = os.open(self.at(path), flags)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            self.handles.append(fd)
        else:
            os.close(fd)

    def _handle(self, number: int) -> int:
        if not self.handles:
            raise OSError(errno.EBADF, "no handle")
        return self.handles[number % len(self.handles)]

    def do_handle_write(self, number: int, at: int, data: bytes) -> int:
        return os.pwrite(self._handle(number), data, at)

    def do_handle_read(self, number: int) -> bytes:
        return os.pread(self._handle(number), 20000, 0)

    def do_handle_truncate(self, number: int, size: int) -> None:
        os.ftruncate(self._handle(number), size)

    def do_handle_stat(self, number: int) -> tuple[int, int, int]:
        found = os.fstat(self._handle(number))
        return found.st_nlink, found.st_mode, found.st_size

    def do_close(self, number: int) -> None:
        fd = self._handle(number)
        self.handles.remove(fd)
        os.close(fd)

    def close_all(self) -> None:
        while self.handles:
            os.close(self.handles.pop())


def picture(top: bytes) -> dict[bytes, Any]:
    """Everything that stat, read, readlink and xattrs show, with hard-link groups as sets."""
    found: dict[bytes, Any] = {}
    groups: dict[int, list[bytes]] = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files, b"."]:
            path = os.path.join(directory, name)
            short = os.path.normpath(os.path.relpath(path, top))
            try:
                status = os.lstat(path)
            except PermissionError:
                found[short] = None
                continue
            kind = stat.S_IFMT(status.st_mode)
            content: Any = None
            if kind == stat.S_IFREG:
                content = _bytes(path)
                groups.setdefault(status.st_ino, []).append(short)
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            xattrs = _xattrs(path)
            links = 0 if kind == stat.S_IFDIR else status.st_nlink
            owner = status.st_uid, status.st_gid
            found[short] = (status.st_mode, owner, links, content, xattrs)
    found[b"hard links"] = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    return found


def _xattrs(path: bytes) -> dict[str, bytes] | None:
    try:
        return {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
        }
    except PermissionError:
        return None


def _bytes(path: bytes) -> bytes | None:
    try:
        return Path(os.fsdecode(path)).read_bytes()
    except PermissionError:
        return None


def compare(sides: tuple[Side, Side]) -> None:
    """Both trees are the same; only what differs is shown."""
    view, plain = (picture(side.top) for side in sides)
    differing = sorted(
        name for name in view.keys() | plain.keys() if view.get(name) != plain.get(name)
    )
    assert not differing, [(name, view.get(name), plain.get(name)) for name in differing[:4]]
