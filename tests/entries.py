"""Entries of every origin: made in the base, made by the session, or made of both.

A ``Kind`` says what the base has under a name before the session begins, and what the session
then does to it, so that a call meets it as lower, upper, copied up, merged, moved, opaque or
hidden.  Everything is relative to the current directory; names beside an entry are the entry's
name and a suffix.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass

THEN = 10**18
"""The time of all that the base has (in ns): 2001."""

Make = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Kind:
    base: Make | None = None
    """Makes what the base has."""
    first: Make | None = None
    """What the session does before the call in question."""


def file(name: str) -> None:
    """A small file whose bytes tell its name."""
    with open(name, "wb") as out:
        out.write(b"the bytes of " + os.fsencode(os.path.basename(name)) + b"\n")


def append(name: str) -> None:
    with open(name, "ab") as out:
        out.write(b"and more\n")


def directory(name: str) -> None:
    """A directory with a file and a subdirectory."""
    os.makedirs(f"{name}/sub")
    file(f"{name}/in")
    file(f"{name}/sub/deep")


def hard(name: str) -> None:
    file(name)
    os.link(name, f"{name}.2")


def link(name: str) -> None:
    file(f"{name}.2")
    os.symlink(f"{name}.2", name)


def link_to_directory(name: str) -> None:
    directory(f"{name}.2")
    os.symlink(f"{name}.2", name)


def dangling(name: str) -> None:
    os.symlink("nowhere", name)


def loop(name: str) -> None:
    os.symlink(name, name)


def bound(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)


def before(make: Make) -> Make:
    """What ``make`` makes, under the name that it is going to be renamed from."""
    return lambda name: make(f"{name}.0")


def move(name: str) -> None:
    os.rename(f"{name}.0", name)


def merge(name: str) -> None:
    """Something of the session's own in a directory of the base, at both levels."""
    file(f"{name}/new")
    file(f"{name}/sub/new")


def empty(name: str) -> None:
    os.unlink(f"{name}/in")
    shutil.rmtree(f"{name}/sub")


def renew(name: str) -> None:
    shutil.rmtree(name)
    os.mkdir(name)


def renew_filled(name: str) -> None:
    renew(name)
    file(f"{name}/new")


def become_directory(name: str) -> None:
    os.unlink(name)
    directory(name)


def become_file(name: str) -> None:
    shutil.rmtree(name)
    file(name)


def cut(name: str) -> None:
    os.truncate(name, 0)


FILES = {
    "lower file": Kind(file),
    "upper file": Kind(None, file),
    "copied file": Kind(file, append),
    "emptied file": Kind(file, cut),
    "moved file": Kind(before(file), move),
    "lower hard link": Kind(hard),
    "copied hard link": Kind(hard, append),
    "file in place of a directory": Kind(directory, become_file),
}
SPECIAL = {
    "lower symlink": Kind(link),
    "upper symlink": Kind(None, link),
    "symlink to a directory": Kind(link_to_directory),
    "dangling symlink": Kind(dangling),
    "looping symlink": Kind(None, loop),
    "lower fifo": Kind(os.mkfifo),
    "upper fifo": Kind(None, os.mkfifo),
    "socket": Kind(None, bound),
}
DIRECTORIES = {
    "lower directory": Kind(directory),
    "lower empty directory": Kind(os.mkdir),
    "upper directory": Kind(None, directory),
    "upper empty directory": Kind(None, os.mkdir),
    "merged directory": Kind(directory, merge),
    "moved directory": Kind(before(directory), move),
    "opaque directory": Kind(directory, renew_filled),
    "opaque empty directory": Kind(directory, renew),
    "emptied directory": Kind(directory, empty),
    "directory in place of a file": Kind(file, become_directory),
}
ABSENT = {
    "nothing": Kind(),
    "deleted file": Kind(file, os.unlink),
    "deleted directory": Kind(directory, shutil.rmtree),
}
KINDS = FILES | SPECIAL | DIRECTORIES | ABSENT


def still(top: str) -> None:
    """Give everything below ``top`` the base's time."""
    for below, names, files in os.walk(top, topdown=False):
        for name in (*names, *files):
            os.utime(os.path.join(below, name), ns=(THEN, THEN), follow_symlinks=False)
    os.utime(top, ns=(THEN, THEN))
