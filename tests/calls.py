"""The calls of the conformance test: what is done to an entry, and what is told of it.

Each call gets the entry's name (relative to the current directory, which it shares with nothing
else) and returns what a program would notice: values, or the errno of the step that failed.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import stat
from collections.abc import Callable
from typing import Any

from entries import THEN, file
from goexfsd import kernel

Call = Callable[[str], object]


def told(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a step returned, or its errno."""
    try:
        return function(*arguments, **named)
    except OSError as error:  # shutil's own have no number
        return errno.errorcode[error.errno] if error.errno else str(error)


def summary(status: os.stat_result) -> tuple[Any, ...]:
    size = None if stat.S_ISDIR(status.st_mode) else status.st_size
    owner = status.st_uid, status.st_gid
    return oct(status.st_mode), owner, status.st_nlink, size, status.st_mtime_ns == THEN


def lstat(name: str) -> tuple[Any, ...]:
    return summary(os.lstat(name))


def opened(flags: int, then: Callable[[int], Any] | None = None) -> Call:
    """Open with these flags (never waiting for a fifo's other end), do something, close."""

    def call(name: str) -> object:
        fd = os.open(name, flags | os.O_NONBLOCK, 0o640)
        try:
            return then(fd) if then else summary(os.fstat(fd))[1:]
        finally:
            os.close(fd)

    return call


def rename(old: str, new: str, flags: int = 0) -> None:
    here = kernel.AT_FDCWD
    kernel.renameat2(here, os.fsencode(old), here, os.fsencode(new), flags)


def steps(*calls: Callable[[str], Any]) -> Call:
    """Several, each told by itself."""
    return lambda name: [told(call, name) for call in calls]


# -- what is done with an open file ------------------------------------------------------------


def write(fd: int) -> tuple[int, bytes]:
    done = os.pwrite(fd, b"written", 3)
    return done, os.pread(fd, 100, 0) if _readable(fd) else b""


def _readable(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY


def read(fd: int) -> bytes:
    return os.read(fd, 100)


def put(fd: int) -> tuple[int, int]:
    """Where O_APPEND puts things."""
    return os.write(fd, b"put"), os.lseek(fd, 0, os.SEEK_CUR)


def outlived(name: str) -> object:
    """An open file that loses its name goes on."""
    fd = os.open(name, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.unlink(name)
        links = os.fstat(fd).st_nlink
        done = [
            told(os.pwrite, fd, b"afterwards", 0),
            told(os.ftruncate, fd, 6),
            told(os.fchmod, fd, 0o600),
            told(os.fchown, fd, os.getuid(), os.getgid()),
            told(os.utime, fd, ns=(THEN, THEN)),
            told(os.setxattr, fd, "user.x", b"y"),
            told(os.listxattr, fd),
            told(os.link, f"/proc/self/fd/{fd}", "again", follow_symlinks=True),
        ]
        return links, done, told(os.pread, fd, 100, 0), summary(os.fstat(fd))
    finally:
        os.close(fd)


def replaced(name: str) -> object:
    """An open file that another is renamed over goes on, under whatever names it has left."""
    file("other")
    fd = os.open(name, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.rename("other", name)
        os.pwrite(fd, b"afterwards", 0)
        with open(name, "rb") as again:
            return os.fstat(fd).st_nlink, os.pread(fd, 100, 0), again.read()
    finally:
        os.close(fd)


def mapped(name: str) -> object:
    """A shared mapping, a private one and the file: who sees what."""
    fd = os.open(name, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.ftruncate(fd, 5000)
        with mmap.mmap(fd, 5000) as shared, mmap.mmap(fd, 5000, mmap.MAP_PRIVATE) as private:
            shared[4990:4994] = b"both"
            private[0:4] = b"mine"
            os.pwrite(fd, b"file", 100)
            shared.flush()
            found = shared[0:4], shared[100:104], private[100:104], os.pread(fd, 4, 4990)
        return found
    finally:
        os.close(fd)


def locked(name: str) -> object:
    fd = os.open(name, os.O_RDWR | os.O_NONBLOCK)
    other = os.open(name, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        second = told(fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
        return second, told(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    finally:
        os.close(fd)
        os.close(other)


def linked_by_descriptor(name: str) -> object:
    """linkat of an open file, as O_TMPFILE's users do it."""
    fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.link(f"/proc/self/fd/{fd}", "linked", follow_symlinks=True)
        return lstat("linked"), lstat(name)
    finally:
        os.close(fd)


# -- what is done with a directory -------------------------------------------------------------


def worked_in(name: str) -> object:
    """Make, rename and remove below it."""
    return [
        told(file, f"{name}/made"),
        told(os.mkdir, f"{name}/dir"),
        told(os.rename, f"{name}/in", f"{name}/out"),
        told(os.rename, f"{name}/sub", f"{name}/dir/sub"),
        told(os.link, f"{name}/made", f"{name}/twice"),
        told(os.unlink, f"{name}/made"),
        told(listed, name),
        told(listed, f"{name}/dir"),
    ]


def listed(name: str) -> list[tuple[str, bool, bool]]:
    with os.scandir(name) as found:
        return sorted((e.name, e.is_dir(follow_symlinks=False), e.is_symlink()) for e in found)


def remove_all(name: str) -> None:
    os.listdir(name)  # rmtree would wait for a fifo's writer
    shutil.rmtree(name)


def outlived_directory(name: str) -> object:
    """An open directory that is removed is empty, and nothing can be made in it."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        shutil.rmtree(name)
        made = told(os.mkdir, "new", dir_fd=fd)
        os.utime(fd, ns=(THEN, THEN))
        done = [told(os.fchmod, fd, 0o700), told(os.setxattr, fd, "user.x", b"y")]
        return made, done, told(os.listdir, fd), summary(os.fstat(fd))
    finally:
        os.close(fd)


def inside_itself(name: str) -> object:
    return told(rename, name, f"{name}/sub/itself"), told(rename, name, f"{name}/itself")


def over_its_parent(name: str) -> object:
    return told(rename, f"{name}/in", name), told(rename, f"{name}/sub", name)


def xattrs(name: str) -> object:
    return [
        told(os.setxattr, name, "user.a", b"1", os.XATTR_CREATE),
        told(os.setxattr, name, "user.a", b"2", os.XATTR_CREATE),
        told(os.setxattr, name, "user.b", b"2", os.XATTR_REPLACE),
        told(os.setxattr, name, "user.a", b"x" * 300),
        told(os.getxattr, name, "user.a"),
        told(os.setxattr, name, "user.e", b""),
        told(os.getxattr, name, "user.e"),
        sorted(told(os.listxattr, name) or ()),
        told(os.removexattr, name, "user.a"),
        told(os.removexattr, name, "user.a"),
        told(os.setxattr, name, "nonsense", b""),
        told(os.setxattr, name, "user.overlay.opaque", b"y"),
        told(os.getxattr, name, "user.overlay.opaque"),
        told(os.setxattr, name, "user.t", b"", follow_symlinks=False),
    ]


def times(name: str) -> object:
    """Set, with NOW and with OMIT."""
    os.utime(name, ns=(5, 7_000_000_001))
    first = os.stat(name)
    kernel_omit(name, mtime=9)
    second = os.stat(name)
    os.utime(name)
    third = os.stat(name)
    return (
        (first.st_atime_ns, first.st_mtime_ns),
        (second.st_atime_ns, second.st_mtime_ns),
        third.st_mtime_ns > THEN,
    )


def kernel_omit(name: str, mtime: int) -> None:
    """utimensat with OMIT for the access time: touch -m."""
    status = os.stat(name)
    os.utime(name, ns=(status.st_atime_ns, mtime))


def modes(name: str) -> object:
    found = []
    for mode in (0o4755, 0o2755, 0o1777, 0, 0o644):
        found.append((told(os.chmod, name, mode), told(lstat, name)))
    return found


def owners(name: str) -> object:
    """Who may give what to whom, and what becomes of set-id bits."""
    me, group = os.getuid(), os.getgid()
    return [
        told(os.chmod, name, 0o6755),
        told(os.chown, name, me, group),
        told(lstat, name),
        told(os.chown, name, me + 1, -1),
        told(os.chown, name, -1, group + 1),
        told(os.lchown, name, -1, -1),
        told(lstat, name),
    ]


def accesses(name: str) -> list[bool]:
    return [os.access(name, how) for how in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)]


def linked(name: str) -> object:
    return [
        told(os.link, name, "linked", follow_symlinks=False),
        told(lstat, name),
        told(lstat, "linked"),
        told(os.link, name, "linked", follow_symlinks=False),
        told(os.unlink, name),
        told(lstat, "linked"),
    ]


def linked_over(name: str) -> object:
    file("other")
    return told(os.link, "other", name), told(os.symlink, "other", name)


def truncated(name: str) -> object:
    found = []
    for size in (5, 5000, 0, -1):
        found.append((told(os.truncate, name, size), told(lstat, name)))
    return found


def copied(name: str) -> object:
    """As cp and mv do it between directories."""
    os.mkdir("to")
    return told(shutil.copy2, name, "to"), told(shutil.move, name, "to/moved"), told(listed, "to")


RD, WR, RW, CREAT = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT

OPENS: dict[str, Call] = {
    "open to read": opened(RD, read),
    "open to write": opened(WR, write),
    "open for both": opened(RW, write),
    "open, create": opened(WR | CREAT, write),
    "open, create exclusively": opened(RW | CREAT | os.O_EXCL, write),
    "open, create exclusively, no link": opened(RW | CREAT | os.O_EXCL | os.O_NOFOLLOW),
    "open, create, cut": opened(RW | CREAT | os.O_TRUNC, write),
    "open, cut": opened(WR | os.O_TRUNC),
    "open to read, cut": opened(RD | os.O_TRUNC),
    "open to append": opened(WR | os.O_APPEND, put),
    "open to append, create": opened(RW | os.O_APPEND | CREAT, put),
    "open, append and cut": opened(WR | os.O_APPEND | os.O_TRUNC, put),
    "open a directory": opened(RD | os.O_DIRECTORY),
    "open no link": opened(RD | os.O_NOFOLLOW, read),
    "open no link, create": opened(RW | os.O_NOFOLLOW | CREAT, write),
    "open for its path": opened(os.O_PATH),
    "open for its path, no link": opened(os.O_PATH | os.O_NOFOLLOW),
    "open leaving access times": opened(RD | os.O_NOATIME, read),
    "open synchronously": opened(RW | os.O_SYNC, write),
    "open for data": opened(RW | os.O_DSYNC | CREAT, write),
}
CALLS: dict[str, Call] = OPENS | {
    "stat": steps(lambda n: summary(os.stat(n)), lstat, accesses),
    "stat with a slash": steps(lambda n: summary(os.stat(f"{n}/")), lambda n: lstat(f"{n}/x")),
    "readlink": os.readlink,
    "list": listed,
    "list by descriptor": opened(RD | os.O_DIRECTORY, lambda fd: sorted(os.listdir(fd))),
    "unlink": steps(os.unlink, lstat),
    "unlink with a slash": lambda n: os.unlink(f"{n}/"),
    "rmdir": steps(os.rmdir, lstat),
    "rmdir of .": steps(lambda n: os.rmdir(f"{n}/."), lambda n: os.rmdir(f"{n}/..")),
    "remove all": remove_all,
    "remove all, make anew": steps(remove_all, os.mkdir, listed),
    "mkdir": steps(os.mkdir, lstat),
    "mkdir with a slash": lambda n: os.mkdir(f"{n}/"),
    "mkdir below": lambda n: os.mkdir(f"{n}/made"),
    "mkfifo": os.mkfifo,
    "mknod": lambda n: os.mknod(n, 0o600),
    "mknod with a slash": lambda n: os.mknod(f"{n}/", 0o600),
    "symlink": lambda n: os.symlink("to", n),
    "link": linked,
    "link over": linked_over,
    "link by descriptor": linked_by_descriptor,
    "rename to itself": lambda n: rename(n, n),
    "rename with a slash": steps(lambda n: rename(f"{n}/", "new"), lambda n: rename("new", "b/")),
    "rename into itself": inside_itself,
    "rename over its parent": over_its_parent,
    "rename there and back": steps(
        lambda n: rename(n, "new"), lambda n: rename("new", n), lstat, listed
    ),
    "truncate": truncated,
    "outlive its name": outlived,
    "be replaced while open": replaced,
    "be removed while open": outlived_directory,
    "map": mapped,
    "lock": locked,
    "work below": worked_in,
    "xattrs": xattrs,
    "times": times,
    "modes": modes,
    "owners": owners,
    "copy": copied,
}
