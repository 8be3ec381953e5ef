"""A full manifest of a tree: everything about every entry that a commit or discard must respect.

Names, types, bytes (SHA-256), modes, owners, mtimes, extended attributes and ACLs, symlink
targets, device numbers, hard-link structure, and where the data of sparse files lies.  Inode
numbers, access and change times are not in it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

_CHUNK = 64 * 1024
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


@dataclass(frozen=True, slots=True)
class Entry:
    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int | None
    digest: str | None
    target: bytes | None
    rdev: int | None
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[bytes, ...]
    """All names of a file that has several, in this tree, sorted."""
    outside_links: int
    """Names of it that are not in this tree."""
    extents: tuple[tuple[int, int], ...]
    """(start, end) of a sparse file's data."""


Manifest = dict[bytes, Entry]


def manifest(path: Path | str | bytes, *, times: bool = True, extents: bool = True) -> Manifest:
    """The manifest of the tree at ``path``; ``b""`` is the root itself."""
    top = os.fsencode(path)
    found = list(_walk(top))
    groups: dict[tuple[int, int], list[bytes]] = {}
    for name, status in found:
        if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
            groups.setdefault((status.st_dev, status.st_ino), []).append(name)
    result: Manifest = {}
    for name, status in found:
        links = tuple(sorted(groups.get((status.st_dev, status.st_ino), ())))
        full = os.path.join(top, name) if name else top
        result[name] = _entry(full, status, links, times, extents)
    return result


def _walk(top: bytes, below: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    if not below:
        yield b"", os.lstat(top)
    with os.scandir(os.path.join(top, below)) as entries:
        names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_dir in names:
        path = os.path.join(below, name) if below else name
        yield path, os.lstat(os.path.join(top, path))
        if is_dir:
            yield from _walk(top, path)


def _entry(
    path: bytes, status: os.stat_result, links: tuple[bytes, ...], times: bool, extents: bool
) -> Entry:
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    digest, data = _content(path, status) if kind == "file" else (None, ())
    return Entry(
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns if times else 0,
        status.st_size if kind == "file" else None,
        digest,
        os.readlink(path) if kind == "symlink" else None,
        status.st_rdev if kind in ("char", "block") else None,
        _xattrs(path),
        links,
        status.st_nlink - len(links) if links else 0,
        data if extents else (),
    )


def _content(path: bytes, status: os.stat_result) -> tuple[str, tuple[tuple[int, int], ...]]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        fd = os.open(path, flags)
    try:
        sparse = status.st_blocks * 512 < status.st_size
        extents = tuple(_data(fd, status.st_size)) if sparse else ()
        digest = _digest(fd, extents if sparse else ((0, status.st_size),))
    finally:
        os.close(fd)
    return digest, extents


def _digest(fd: int, extents: tuple[tuple[int, int], ...]) -> str:
    """The same for the same bytes, however they lie: chunks of zeros do not count."""
    digest = hashlib.sha256()
    done = 0
    for start, end in extents:
        at = max(start // _CHUNK * _CHUNK, done)
        while at < end:
            piece = os.pread(fd, _CHUNK, at)
            if piece.strip(b"\0"):
                digest.update(b"%d:" % at)
                digest.update(piece)
            at += _CHUNK
        done = max(done, at)
    return digest.hexdigest()


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, at


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return ()
        raise


def differences(before: Manifest, after: Manifest) -> list[str]:
    """What differs, one line an entry; empty if the trees are equal."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        shown = repr(name)[2:-1] or "."
        if name not in after:
            found.append(f"{shown}: gone")
        elif name not in before:
            found.append(f"{shown}: new")
        elif before[name] != after[name]:
            found.append(f"{shown}: {_which(before[name], after[name])}")
    return found


def _which(before: Entry, after: Entry) -> str:
    parts = []
    for field in fields(Entry):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new:
            parts.append(f"{field.name} {old!r} → {new!r}")
    return ", ".join(parts)
