"""Longer scenes of the conformance test that take place in a directory (see ``scenes.py``)."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

from calls import Call, listed, lstat, rename, steps, told
from entries import file
from scenes import STRANGER, child, opened

_libc = ctypes.CDLL(None, use_errno=True)


def names(name: str) -> object:
    """Names of any bytes and lengths."""
    top = os.fsencode(name)
    found: list[Any] = []
    for one in (b"n" * 255, b"n" * 256, b"\xff\xfe", b"a\nb", b" ", b"-rf", b"\xe2\x80\xae", b"\\"):
        path = os.path.join(top, one)
        found += [
            told(os.mknod, path),
            told(os.rename, path, path + b"x"),
            told(os.stat, path + b"x") == 0,
        ]
    found.append(sorted(os.listdir(top)))
    found += [told(os.mkdir, os.path.join(top, odd)) for odd in (b"", b".", b"..", b"no/such")]
    found += [told(os.rmdir, os.path.join(top, odd)) for odd in (b".", b"..", b"x/..")]
    found.append(told(os.stat, top + b"/" + b"./" * 2040 + b"x"))
    return found


def links(name: str) -> object:
    """Symlinks of every length, chains, and what follows them."""
    os.chdir(name)
    found: list[Any] = [told(os.symlink, "t" * size, f"l{size}") for size in (0, 1, 900, 4096)]
    found += [told(os.readlink, f"l{size}") for size in (1, 900)]
    os.symlink("in", "c0")
    for number in range(45):
        os.symlink(f"c{number}", f"c{number + 1}")
    found += [
        told(os.open, f"c{number}", os.O_RDONLY) not in ("ELOOP",) for number in (5, 39, 40, 45)
    ]
    found += [told(os.link, "c0", "hard", follow_symlinks=False), told(os.readlink, "hard")]
    found += [told(os.chmod, "c0", 0o600), told(os.chown, "c0", -1, -1, follow_symlinks=False)]
    found += [told(os.mkdir, "l1"), told(os.open, "l1", os.O_CREAT | os.O_EXCL | os.O_WRONLY)]
    os.chdir("..")
    return found


def inherited(name: str) -> object:
    """Set-gid directories, the umask, and default ACLs."""
    found: list[Any] = []
    if os.getuid() == 0:
        os.chown(name, -1, 4711)
    os.chmod(name, 0o2775)
    for mask in (0, 0o027, 0o777):
        os.umask(mask)
        found.append(_made(f"{name}/{mask}"))
    subprocess.run(["setfacl", "-d", "-m", "u:77:rwx,g::r,o::-", name], check=True)
    for mask in (0, 0o077):
        os.umask(mask)
        found.append(_made(f"{name}/acl{mask}"))
    os.umask(0o022)
    return found


def _made(prefix: str) -> object:
    os.close(os.open(f"{prefix}f", os.O_CREAT | os.O_RDWR, 0o666))
    os.mkdir(f"{prefix}d", 0o777)
    os.mkfifo(f"{prefix}p", 0o666)
    os.symlink("x", f"{prefix}l")
    return [
        (lstat(f"{prefix}{kind}"), told(os.listxattr, f"{prefix}{kind}", follow_symlinks=False))
        for kind in "fdpl"
    ]


def sticky(name: str) -> object:
    """Who may remove what from a directory like /tmp."""
    if os.getuid():
        return None
    os.chmod(name, 0o1777)
    os.chown(name, 21001, 21001)

    def attempts() -> object:
        file(f"{name}/own")
        return [
            told(os.unlink, f"{name}/in"),
            told(os.rename, f"{name}/in", f"{name}/other"),
            told(os.rename, f"{name}/own", f"{name}/in"),
            told(rename, f"{name}/own", f"{name}/in", 2),
            told(os.link, f"{name}/own", f"{name}/two"),
            told(os.rmdir, f"{name}/sub"),
            told(os.rename, f"{name}/own", f"{name}/kept"),
            told(os.unlink, f"{name}/two"),
        ]

    return child(attempts, STRANGER), child(lambda: os.unlink(f"{name}/in"), 21001), listed(name)


def closed(name: str) -> object:
    """Directories without the rights to list, enter or write."""
    if os.getuid() == 0:
        return None
    found: list[Any] = []
    for mode in (0o600, 0o100, 0o500, 0o300, 0):
        os.chmod(name, mode)
        found.append([
            told(lambda: sorted(os.listdir(name))),
            told(os.stat, f"{name}/in") == "EACCES",
            told(os.mknod, f"{name}/made{mode}"),
            told(os.rename, f"{name}/in", f"{name}/in"),
            told(os.mkdir, f"{name}/sub/made{mode}"),
            told(os.chdir, name),
        ])  # fmt: skip
        os.chdir("..") if found[-1][-1] is None else None
    os.chmod(name, 0o755)
    return found, listed(name)


def moved_about(name: str) -> object:
    """The current directory and descriptors stay where they are as directories move."""
    here = os.getcwd()
    os.mkdir("elsewhere")
    with opened(f"{name}/sub", os.O_RDONLY) as sub:
        os.chdir(f"{name}/sub")
        os.rename(f"{here}/{name}", f"{here}/elsewhere/moved")
        shown = os.path.relpath(os.getcwd(), here)
        file("made")
        up = sorted(os.listdir(".."))
        os.chdir(here)
        again = os.open("deep", os.O_RDONLY, dir_fd=sub)
        os.close(again)
        shutil.rmtree("elsewhere")
        return shown, up, told(os.open, "deep", os.O_RDONLY, dir_fd=sub), os.listdir(sub)


def sockets(name: str) -> object:
    """Bound, found under another name, refused when taken or gone."""
    os.chdir(name)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        taken = told(server.bind, "s"), told(socket.socket(socket.AF_UNIX).bind, "s")
        early = told(client.connect, "s")
        server.listen()
        os.rename("s", "t")
        late = told(client.connect, "s"), told(client.connect, "t")
        opened_as_file = told(os.open, "t", os.O_RDWR)
    with socket.socket(socket.AF_UNIX) as client:
        dead = told(client.connect, "t")
    os.chdir("..")
    return taken, early, late, opened_as_file, dead


def pipes(name: str) -> object:
    """A fifo between two processes, longer than its buffer, unlinked while in use."""
    path = f"{name}/pipe"
    os.mkfifo(path)
    alone = told(os.open, path, os.O_WRONLY | os.O_NONBLOCK)
    pid = os.fork()
    if pid == 0:
        with open(path, "wb") as out:
            out.write(b"x" * 300_000)
        os._exit(0)
    with open(path, "rb") as source:
        os.unlink(path)
        size = len(source.read())
    os.waitpid(pid, 0)
    return alone, size


def watched(name: str) -> object:
    """inotify tells what is done in a directory."""
    fd = _libc.inotify_init1(os.O_NONBLOCK)
    mask = 0xFC6  # all but access and open: what changes
    assert _libc.inotify_add_watch(fd, os.fsencode(name), mask) > 0
    try:
        file(f"{name}/made")
        os.rename(f"{name}/made", f"{name}/moved")
        os.rename(f"{name}/in", f"{name}/moved")
        os.chmod(f"{name}/moved", 0o600)
        os.truncate(f"{name}/moved", 2)
        os.mkdir(f"{name}/dir")
        os.unlink(f"{name}/moved")
        os.rmdir(f"{name}/dir")
        return list(_events(os.read(fd, 65536)))
    finally:
        os.close(fd)


def _events(data: bytes) -> Iterator[tuple[str, bytes]]:
    while data:
        _, mask, _, size = struct.unpack_from("iIII", data)
        yield hex(mask), data[16 : 16 + size].rstrip(b"\0")
        data = data[16 + size :]


def devices(name: str) -> object:
    """Device nodes are root's to make; their numbers are kept."""
    found: list[Any] = []
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        path = f"{name}/{kind}"
        found.append(told(os.mknod, path, kind | 0o600, os.makedev(7, 300)))
        found.append(os.lstat(path).st_rdev if os.getuid() == 0 else None)
    return found


ON_DIRECTORIES: dict[str, Call] = {
    "names": names,
    "links": links,
    "inherited": inherited,
    "sticky": sticky,
    "closed": closed,
    "moved about": moved_about,
    "sockets": sockets,
    "pipes": pipes,
    "watched": watched,
    "devices": devices,
    "copied whole": steps(
        lambda n: shutil.copytree(n, "copy", symlinks=True) and None, lambda n: shutil.rmtree(n)
    ),
}
