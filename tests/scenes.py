"""Longer scenes of the conformance test: several processes, users, descriptors at once.

Like the calls (``calls.py``), each gets the name of an entry and returns what was noticed on the
way.  Scenes of other users need root, and leave them out without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import resource
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from calls import Call, lstat, told
from entries import THEN, file

STRANGER = 21077
"""Somebody with no right to anything."""
_libc = ctypes.CDLL(None, use_errno=True)


def child(work: Callable[[], object], uid: int | None = None, gid: int | None = None) -> object:
    """What another process says of it: its result as text, or the signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if uid is not None:
                os.setgroups([])
                os.setresgid(gid or uid, gid or uid, gid or uid)
                os.setresuid(uid, uid, uid)
            os.write(writer, repr(told(work)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as out:
        said = out.read().decode()
    status = os.waitpid(pid, 0)[1]
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else said


@contextlib.contextmanager
def opened(name: str, flags: int = os.O_RDWR) -> Iterator[int]:
    fd = os.open(name, flags | os.O_NONBLOCK, 0o640)
    try:
        yield fd
    finally:
        os.close(fd)


def odd_uses(name: str) -> object:
    """What descriptors of the wrong sort, and odd offsets, are answered."""
    with opened(name, os.O_RDONLY) as reader, opened(name, os.O_WRONLY) as writer:
        return [
            told(os.write, reader, b"x"),
            told(os.read, writer, 1),
            told(os.ftruncate, reader, 1),
            told(os.ftruncate, writer, -1),
            told(os.lseek, reader, -1, os.SEEK_SET),
            told(os.lseek, reader, 1000, os.SEEK_END),
            told(os.read, reader, 10),
            told(os.pread, reader, 10, 10_000),
            told(os.pwrite, writer, b"far", 10_000),
            told(os.pwritev, writer, [b"one", b"two", b""], 2),
            told(os.write, writer, b""),
            told(os.fsync, reader),
            told(os.fdatasync, writer),
            told(os.pread, reader, 20, 0),
            os.fstat(reader).st_size,
            told(os.open, f"{name}/", os.O_RDONLY),
            told(os.open, f"{name}/.", os.O_RDONLY),
            told(os.open, f"{name}/..", os.O_RDONLY),
            told(os.fchdir, reader),
            told(os.listdir, name),
        ]


def sparse(name: str) -> object:
    with opened(name) as fd:
        os.pwrite(fd, b"far", 1 << 40)
        os.pwrite(fd, b"near", 1 << 20)
        found = os.fstat(fd)
        hole = os.pread(fd, 10, 1 << 30)
        os.ftruncate(fd, (1 << 20) + 2)
        os.ftruncate(fd, 1 << 21)
        return (
            (found.st_size, found.st_blocks < 1000, hole),
            (os.fstat(fd).st_size, os.pread(fd, 6, 1 << 20)),
        )


def limited(name: str) -> object:
    """RLIMIT_FSIZE: the error, and the signal."""

    def grow(how: signal.Handlers) -> object:
        signal.signal(signal.SIGXFSZ, how)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with opened(name) as fd:
            one = told(os.pwrite, fd, b"x" * 10, 4090)
            return one, told(os.pwrite, fd, b"x", 4096), told(os.ftruncate, fd, 5000)

    return child(lambda: grow(signal.SIG_IGN)), child(lambda: grow(signal.SIG_DFL))


def appended(name: str) -> object:
    """Several writers with O_APPEND lose nothing and tear nothing."""
    pids = []
    for writer in range(4):
        pid = os.fork()
        if pid == 0:
            fd = os.open(name, os.O_WRONLY | os.O_APPEND)
            for number in range(50):
                os.write(fd, f"{writer} {number}\n".encode())
            os._exit(0)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    with open(name) as lines:
        found = sorted(lines)
    os.truncate(name, 0)  # the order is anybody's
    return statuses, found


def locked(name: str) -> object:
    """POSIX, flock and OFD locks between processes."""

    def attempt() -> object:
        with opened(name) as other:
            asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 100, 0)
            kind, _, start, length, _ = struct.unpack(
                "hhqqi4x", fcntl.fcntl(other, fcntl.F_GETLK, asked)
            )
            free = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 60, 10, 0)
            return (
                (kind == fcntl.F_WRLCK, start, length),
                told(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 25),
                told(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50),
                isinstance(told(fcntl.fcntl, other, fcntl.F_OFD_SETLK, free), bytes),
                told(fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB),
            )

    with opened(name) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX, 10, 20)
        fcntl.flock(fd, fcntl.LOCK_EX)
        held = child(attempt)
        with opened(name):
            pass  # closing any descriptor gives a process's POSIX locks up
        return held, child(attempt)


def mapped(name: str) -> object:
    """A mapping shared by two processes; beyond the end of the file is SIGBUS."""
    with opened(name) as fd:
        os.ftruncate(fd, 9000)
        with mmap.mmap(fd, 9000) as shared:

            def write() -> object:
                shared[8000:8005] = b"child"
                return os.pread(fd, 5, 8000)

            said = child(write)
            seen = shared[8000:8005]
            os.ftruncate(fd, 10)
            return said, seen, child(lambda: shared[8500]), shared[5]


def executed(name: str) -> object:
    """Scripts and programs run; one that runs cannot be written."""
    os.unlink(name)
    shutil.copy("/bin/sleep", name)
    os.chmod(name, 0o755)
    with subprocess.Popen([f"./{name}", "100"]) as sleeper:
        busy = told(os.open, name, os.O_WRONLY), told(os.truncate, name, 0)
        os.rename(name, "elsewhere")
        sleeper.kill()
    with open(name, "w") as script:
        script.write("#!/bin/sh\necho said $1\n")
    refused = told(subprocess.check_output, [f"./{name}", "this"])
    os.chmod(name, 0o755)
    return busy, refused, subprocess.check_output([f"./{name}", "this"])


def by_descriptor(name: str) -> object:
    """What /proc says of an open file as its name changes, and opening it anew through it."""
    with opened(name, os.O_RDONLY) as fd:
        path = f"/proc/self/fd/{fd}"
        os.rename(name, "moved")
        one = os.path.basename(os.readlink(path))
        with opened(path, os.O_RDWR) as again:
            os.pwrite(again, b"through", 0)
        os.unlink("moved")
        with opened(path, os.O_RDONLY) as again:
            return one, os.path.basename(os.readlink(path)), os.read(again, 7)


def set_ids(name: str) -> object:
    """Set-id bits and capabilities do not outlive a change of the contents or owner."""
    found = []
    changes: tuple[Callable[[], None], ...] = (
        lambda: os.truncate(name, 3),
        lambda: file(name),
        lambda: os.chown(name, os.getuid(), os.getgid()),
    )
    for change in changes:
        os.chmod(name, 0o6755)
        told(os.setxattr, name, "security.capability", _CAPABILITY)
        change()
        found.append((lstat(name), told(os.getxattr, name, "security.capability")))
    return found


_CAPABILITY = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)


def attributes(name: str) -> object:
    """Namespaces, sizes and limits of extended attributes."""
    os.symlink(name, "link")
    return [
        told(os.setxattr, name, "trusted.x", b"1"),
        told(os.getxattr, name, "trusted.x"),
        told(os.setxattr, name, "security.x", b"1"),
        told(os.setxattr, name, "system.x", b"1"),
        told(os.setxattr, name, "user.", b"1"),
        told(os.setxattr, name, "user." + "n" * 251, b"1"),
        told(os.setxattr, name, "user." + "n" * 250, b"1"),
        told(os.setxattr, name, "user.x", b"1" * 65537),
        told(os.setxattr, "link", "user.x", b"1", follow_symlinks=False),
        told(os.setxattr, "link", "trusted.x", b"1", follow_symlinks=False),
        sorted(told(os.listxattr, name)),
        told(os.listxattr, "link", follow_symlinks=False),
        told(os.removexattr, name, "trusted.x"),
    ]


def touched(name: str) -> object:
    """NOW and OMIT, as touch asks for them."""
    os.utime(name, ns=(5, 7))
    subprocess.run(["touch", "-a", name], check=True)
    one = os.stat(name)
    os.utime(name, ns=(5, 7))
    subprocess.run(["touch", "-m", "-d", "@12345.678901234", name], check=True)
    two = os.stat(name)
    return one.st_mtime_ns, one.st_atime_ns > THEN, two.st_atime_ns, two.st_mtime_ns


def rights(name: str) -> object:
    """What others may do, by mode and by ACL."""
    if os.getuid():
        return None
    os.chown(name, 21001, 21001)
    found: list[Any] = []
    for mode in (0o600, 0o640, 0o606, 0o777):
        os.chmod(name, mode)
        found.append([child(lambda: _try(name), uid, gid) for uid, gid in _OTHERS])
    os.chmod(name, 0o600)
    subprocess.run(["setfacl", "-m", f"u:{STRANGER}:rw,g:21001:r", name], check=True)
    found.append([child(lambda: _try(name), uid, gid) for uid, gid in _OTHERS])
    os.chmod(name, 0o640)
    found.append([child(lambda: _try(name), uid, gid) for uid, gid in _OTHERS])
    return found, os.getxattr(name, "system.posix_acl_access"), lstat(name)


_OTHERS = ((21001, 21001), (STRANGER, 21001), (STRANGER, STRANGER))


def _try(name: str) -> object:
    """All that rights decide; what only the owner may do is left to the others."""
    found: list[Any] = []
    for how in (os.O_RDONLY, os.O_WRONLY, os.O_RDONLY | os.O_NOATIME):
        fd = told(os.open, name, how)
        found.append(fd if isinstance(fd, str) else told(os.close, fd))
    if os.getuid() != 21001:
        found += [
            told(os.chmod, name, 0o600),
            told(os.utime, name, ns=(1, 1)),
            told(os.utime, name),
        ]
    found += [told(os.chown, name, -1, 0), told(os.setxattr, name, "user.by", b"x")]
    return [*found, told(os.getxattr, name, "user.by")]


ON_FILES: dict[str, Call] = {
    "odd uses": odd_uses,
    "sparse": sparse,
    "limited": limited,
    "appended by several": appended,
    "locked by several": locked,
    "mapped by several": mapped,
    "executed": executed,
    "by descriptor": by_descriptor,
    "set-id": set_ids,
    "attributes": attributes,
    "touched": touched,
    "rights": rights,
}
