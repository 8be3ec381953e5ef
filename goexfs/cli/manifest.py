"""Manifests: everything about every entry of some directories, saved and compared later.

Of each entry: name, type, mode, owner, mtime, size, SHA-256 of the bytes, a link's target, a
device's number, extended attributes with ACLs, the other names of a file that has several, and
where a sparse file's data lies.  Not: access and change times, inode numbers.  A *quick* manifest
has inode number and change time in place of bytes and attributes: nothing but the directories is
read, and any write since shows all the same.

A file of lines: a head, an entry each, at last the SHA-256 of all before.  Everything is read by
the caller's own process, relative to directory descriptors, and no symlink is followed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from goexfs.errors import NotFound, Usage
from goexfs.names import display, to_wire

VERSION = 1
_PIECE = 1 << 20
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Entry = dict[str, Any]
Manifest = dict[str, Entry]
"""Path, as on the wire, with its directory's index before it (``0/src/main.py``) → the entry."""


def take(directories: Sequence[str], *, quick: bool) -> Manifest:
    """The manifest of these directories as they are now."""
    found: Manifest = {}
    links: dict[tuple[int, int], list[str]] = {}
    for index, directory in enumerate(directories):
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"{display(directory)} cannot be opened: {error.strerror}") from error
        for path, status, parent, name in _walk(fd):
            key = f"{index}/{to_wire(path)}" if path else f"{index}"
            found[key] = _quick(status) if quick else _entry(status, parent, name)
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                links.setdefault((status.st_dev, status.st_ino), []).append(key)
    for names in links.values():
        for key in names:
            found[key]["links"] = sorted(names)
    return found


def _walk(fd: int) -> Iterator[tuple[bytes, os.stat_result, int, bytes]]:
    """Each entry: path, status, and the directory (a descriptor) and name to reach it by.

    A descriptor is kept for each directory on the way down only.
    """
    yield b"", os.fstat(fd), fd, b"."
    stack = [(b"", fd, iter(_sorted(fd)))]
    while stack:
        above, parent, names = stack[-1]
        name = next(names, None)
        if name is None:
            stack.pop()
            os.close(parent)
            continue
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        path = above + b"/" + name if above else name
        yield path, status, parent, name
        if stat.S_ISDIR(status.st_mode):
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner = os.open(name, flags, dir_fd=parent)
            stack.append((path, inner, iter(_sorted(inner))))


def _sorted(fd: int) -> list[bytes]:
    return sorted(os.fsencode(name) for name in os.listdir(fd))


def _basic(status: os.stat_result) -> Entry:
    return {
        "type": _TYPES[stat.S_IFMT(status.st_mode)],
        "mode": stat.S_IMODE(status.st_mode),
        "owner": [status.st_uid, status.st_gid],
        "mtime": status.st_mtime_ns,
    }


def _quick(status: os.stat_result) -> Entry:
    return {**_basic(status), "inode": status.st_ino, "ctime": status.st_ctime_ns}


def _entry(status: os.stat_result, parent: int, name: bytes) -> Entry:
    entry = _basic(status)
    kind = entry["type"]
    if kind == "symlink":
        entry["target"] = to_wire(os.readlink(name, dir_fd=parent))
    elif kind in ("char", "block"):
        entry["device"] = status.st_rdev
    elif kind in ("file", "dir"):
        fd = _open(parent, name)
        try:
            if kind == "file":
                entry |= _contents(fd, status)
            entry["attributes"] = _attributes(fd)
        finally:
            os.close(fd)
    return entry


def _open(parent: int, name: bytes) -> int:
    try:
        return os.open(name, _READ | os.O_NOATIME, dir_fd=parent)
    except PermissionError:  # another's: then its access time moves
        return os.open(name, _READ, dir_fd=parent)


def _contents(fd: int, status: os.stat_result) -> Entry:
    sparse = status.st_blocks * 512 < status.st_size
    extents = list(_data(fd, status.st_size)) if sparse else [[0, status.st_size]]
    digest = hashlib.sha256()
    for start, end in extents:
        if sparse:
            digest.update(b"%d:%d:" % (start, end))
        at = start
        while at < end:
            piece = os.pread(fd, min(_PIECE, end - at), at)
            if not piece:
                break  # it became shorter meanwhile: another size
            digest.update(piece)
            at += len(piece)
    found: Entry = {"size": status.st_size, "sha256": digest.hexdigest()}
    if sparse:
        found["extents"] = extents
    return found


def _data(fd: int, size: int) -> Iterator[list[int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield [start, at]


def _attributes(fd: int) -> dict[str, str]:
    try:
        names = os.listxattr(fd)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return {}
        raise
    return {name: os.getxattr(fd, name).hex() for name in sorted(names)}


# -- as a file -----------------------------------------------------------------------------------


def save(path: str, directories: Sequence[str], *, quick: bool) -> int:
    """Write the manifest of the directories to a new file; returns how many entries it has."""
    for directory in directories:
        if os.path.realpath(path).startswith(os.path.realpath(directory).rstrip("/") + "/"):
            raise Usage("the manifest would lie in what it is about", hint="save it elsewhere")
    found = take(directories, quick=quick)
    digest = hashlib.sha256()
    try:
        with open(path, "xb") as file:
            head = {"goexfs": VERSION, "quick": quick, "directories": list(map(_wire, directories))}
            for line in (head, *([key, entry] for key, entry in found.items())):
                data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
                digest.update(data)
                file.write(data)
            file.write(json.dumps({"sha256": digest.hexdigest()}).encode() + b"\n")
    except OSError as error:
        raise Usage(f"{display(path)} cannot be written: {error.strerror}") from error
    return len(found)


def load(path: str) -> tuple[list[str], bool, Manifest]:
    """Directories, whether it is quick, entries; Usage for what is no whole manifest."""
    from goexfs.names import from_wire

    try:
        with open(path, "rb") as file:
            *lines, last = file.read().splitlines(keepends=True)
    except OSError as error:
        raise NotFound(f"{display(path)} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise Usage(f"{display(path)} is no manifest") from error
    try:
        whole = json.loads(last)["sha256"] == hashlib.sha256(b"".join(lines)).hexdigest()
        head, *entries = map(json.loads, lines)
        if not whole or head["goexfs"] != VERSION:
            raise ValueError
        directories = [os.fsdecode(from_wire(each)) for each in head["directories"]]
        return directories, head["quick"], dict(entries)
    except (ValueError, KeyError, TypeError) as error:
        raise Usage(
            f"{display(path)} is no manifest of this goexfs, or was changed since it was saved"
        ) from error


def _wire(path: str) -> str:
    return to_wire(os.fsencode(os.path.realpath(path)))


def compare(then: Manifest, now: Manifest) -> Iterator[tuple[str, str]]:
    """What differs: path, with its directory's index before it, and in what."""
    for key in sorted(then.keys() | now.keys()):
        if key not in now:
            yield key, "it is gone"
        elif key not in then:
            yield key, "it is new"
        elif then[key] != now[key]:
            parts = [part for part in _PARTS if then[key].get(part) != now[key].get(part)]
            yield key, f"changed: {', '.join(parts)}"


_PARTS = (
    "type",
    "mode",
    "owner",
    "mtime",
    "size",
    "sha256",
    "extents",
    "target",
    "device",
    "attributes",
    "links",
    "inode",
    "ctime",
)
