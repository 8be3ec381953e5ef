"""Before-images: what a commit replaces or removes, kept so that it can be taken back.

``images`` in the commit's directory has a line for each base entry: its place, its inode, the
role it plays, all attributes, and the number of ``image.<n>`` with its bytes (names of one inode
share it).  Small files of one name lie one after the other in ``image.pack``, and the line has
their place in it: a file for each would cost more than their bytes.  Bytes that cannot be read yet
(no read permission) are saved once the entry has left its place, in ``late``; so is whatever
somebody changed in the last moment: nothing is lost.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from goexfsd import kernel
from goexfsd.commit import alike, intent
from goexfsd.commit.base import Base, type_of
from goexfsd.commit.draft import Blueprint, Contents, Taken
from goexfsd.commit.faithful import (
    DATA,
    Meta,
    copy_data,
    read_meta,
    small_data,
    text,
    write_at,
    xattrs_of,
)
from goexfsd.commit.faults import fault
from goexfsd.commit.places import join
from goexfsd.commit.plan import Expect
from goexfsd.commit.stage import listing

LATE = b"late"
PACK = b"image.pack"
_FLUSH = 1 << 20
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
Image = int | list[int] | None
"""The number of a file ``image.<n>``, or [offset, length] in the pack; None: no bytes are kept."""
Progress = Callable[[str, int, int | None], None]


class Saved(NamedTuple):
    """What the index says of one base entry: a row in ``images``."""

    root: int
    path: str
    role: str
    type: str
    ino: int
    nlink: int
    ctime_ns: int
    meta: list[Any]
    image: Image


def image_name(number: int) -> bytes:
    return b"image.%d" % number


def save(
    blueprint: Blueprint, base: Base, source: Contents, before_fd: int, progress: Progress
) -> None:
    """Write all before-images and their index; durable once the store is synced.

    ``source`` has what is to take the place of what they are of.
    """
    lines = []
    with _Saver(base, _Alike(blueprint, source), before_fd) as saver:
        for index, taken in enumerate(blueprint.taken):
            fault("before.image")
            line = saver.line(taken)
            if taken.role == "filled" and taken.node is not None:
                assert isinstance(line.image, int)
                blueprint.plan.fills[taken.node] = line.image
            if taken.role == "gone" and line.type == "file" and line.image is None:
                key = taken.root, line.ino
                blueprint.plan.taken[key] = replace(blueprint.plan.taken[key], saved=False)
            lines.append(line)
            if index % 256 == 0:
                progress("before-images", index, len(blueprint.taken))
    fault("before.index")
    intent.write(before_fd, intent.IMAGES, intent.rows("images", lines), durable=False)


class _Alike:
    """What takes the place of a large file, and is often much like it."""

    def __init__(self, blueprint: Blueprint, source: Contents) -> None:
        self._source = source
        self._at = {
            (item.root, item.path): item.content
            for item in blueprint.staged
            if item.type == "file" and item.link_to is None and item.room >= alike.WORTH
        }

    def open(self, taken: Taken) -> int:
        """A descriptor of its bytes, for the caller to close; -1: there is none."""
        content = self._at.get((taken.root, taken.path))
        data = None if content is None else self._source.data(content)
        return data if isinstance(data, int) else -1


class _Saver:
    def __init__(self, base: Base, like: _Alike, before_fd: int) -> None:
        self._base, self._like, self._before_fd = base, like, before_fd
        self._numbers: dict[tuple[int, int], int | None] = {}
        self._next = 0
        self._pack = _Pack(before_fd)

    def __enter__(self) -> _Saver:
        return self

    def __exit__(self, *failure: object) -> None:
        self._pack.close()

    def line(self, taken: Taken) -> Saved:
        if taken.role == "gone" and taken.st.st_nlink == 1 and stat.S_ISREG(taken.st.st_mode):
            with contextlib.suppress(PermissionError):
                return self._plain(taken)
        meta, st = read_meta(*self._base.at(taken.root, taken.path))
        image = None
        if stat.S_ISREG(st.st_mode) and taken.role != "attrs":
            key = st.st_dev, st.st_ino
            if key not in self._numbers:
                self._numbers[key] = self._bytes(taken)
            image = self._numbers[key]
        return self._line(taken, meta, st, image)

    def _plain(self, taken: Taken) -> Saved:
        """The line of a readable file of one name, with one look at it."""
        directory, name = self._base.at(taken.root, taken.path)
        src = os.open(name, DATA, dir_fd=directory)
        try:
            st = os.fstat(src)
            meta = Meta.of(st, xattrs_of(src, opened=True))
            image: Image = None
            if stat.S_ISREG(st.st_mode):
                data = small_data(src, st)
                image = self._keep(taken, src, st) if data is None else self._pack.put(data)
            return self._line(taken, meta, st, image)
        finally:
            os.close(src)

    def _line(self, taken: Taken, meta: Meta, st: os.stat_result, image: Image) -> Saved:
        return Saved(
            taken.root,
            text(taken.path),
            taken.role,
            type_of(st.st_mode),
            st.st_ino,
            st.st_nlink,
            st.st_ctime_ns,
            meta.to_json(),
            image,
        )

    def _bytes(self, taken: Taken) -> int | None:
        try:
            src = self._base.open(taken.root, taken.path, DATA)
        except PermissionError:
            if taken.role == "filled":
                raise
            return None  # saved late
        try:
            return self._keep(taken, src, os.fstat(src))
        finally:
            os.close(src)

    def _keep(self, taken: Taken, src: int, st: os.stat_result) -> int:
        self._next += 1
        like = self._like.open(taken) if st.st_size >= alike.WORTH else -1
        try:
            keep(self._before_fd, image_name(self._next), src, st.st_size, like)
        finally:
            if like >= 0:
                os.close(like)
        return self._next


class _Pack:
    """The file with the bytes of small ones, made when there is the first."""

    def __init__(self, dir_fd: int) -> None:
        self._dir_fd, self._fd = dir_fd, -1
        self._waiting: list[bytes] = []
        self._held = 0
        self._end = 0

    def put(self, data: bytes) -> list[int]:
        """[offset, length] of ``data`` in the pack."""
        at = self._end
        self._waiting.append(data)
        self._held += len(data)
        self._end += len(data)
        if self._held >= _FLUSH:
            self._write()
        return [at, len(data)]

    def _write(self) -> None:
        if self._fd < 0:
            self._fd = os.open(PACK, _NEW, 0o600, dir_fd=self._dir_fd)
        data, at = b"".join(self._waiting), self._end - self._held
        write_at(self._fd, data, at)
        self._waiting.clear()
        self._held = 0

    def close(self) -> None:
        """Write what is left."""
        try:
            if self._held:
                self._write()
        finally:
            if self._fd >= 0:
                os.close(self._fd)


def keep(dir_fd: int, name: bytes, src: int, size: int, like: int = -1) -> None:
    """Copy what ``src`` reads to a new file; ``like`` as in ``copy_alike``, or -1."""
    dst = os.open(name, _NEW, 0o600, dir_fd=dir_fd)
    try:
        if like < 0:
            copy_data(src, dst, size)
        else:
            alike.copy_alike(src, dst, size, like)
    finally:
        os.close(dst)


def save_late(
    root: int,
    stage_fd: int,
    taken: Mapping[tuple[int, int], Expect],
    known: set[int],
    before_fd: int,
) -> list[dict[str, Any]]:
    """What lies in a staging directory after the apply and has no before-image: save it.

    ``taken`` are the entries whose images are whole if they did not change since; ``known`` the
    inodes of unused staged things.  Returns a line for each entry saved, with ``changed`` false
    for those that merely could not be read before.
    """
    found: list[dict[str, Any]] = []
    below = [b""]
    for path in below:  # grows while it is read
        fd = kernel.open_dir_beneath(stage_fd, path)
        try:
            below += _late_in(root, fd, path, taken, known, before_fd, found)
        finally:
            os.close(fd)
    return found


def _late_in(
    root: int,
    fd: int,
    path: bytes,
    taken: Mapping[tuple[int, int], Expect],
    known: set[int],
    before_fd: int,
    found: list[dict[str, Any]],
) -> list[bytes]:
    deeper = []
    if os.fstat(fd).st_uid == os.geteuid() and os.fstat(fd).st_mode & 0o700 != 0o700:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    for name, st in listing(fd):
        if stat.S_ISDIR(st.st_mode):
            deeper.append(join(path, name))
        expect = taken.get((root, st.st_ino))
        if st.st_ino in known or (expect is not None and _as_checked(expect, st)):
            continue
        found.append(_save_one(root, fd, name, join(path, name), st, before_fd, expect))
    return deeper


def _as_checked(expect: Expect, st: os.stat_result) -> bool:
    if stat.S_ISDIR(st.st_mode):
        return stat.S_ISDIR(expect.mode)
    same = (st.st_size, st.st_mtime_ns) == (expect.size, expect.mtime_ns)
    return same and expect.saved


def _save_one(
    root: int,
    fd: int,
    name: bytes,
    path: bytes,
    st: os.stat_result,
    before_fd: int,
    expect: Expect | None,
) -> dict[str, Any]:
    meta, _ = read_meta(fd, name)
    image = None
    if stat.S_ISREG(st.st_mode):
        if st.st_uid == os.geteuid() and not st.st_mode & 0o400:
            os.chmod(name, 0o600, dir_fd=fd)  # it is to be removed anyway
        with contextlib.suppress(PermissionError):
            src = kernel.open_beneath(fd, name, DATA)
            try:
                label = LATE + b".%d.%d" % (st.st_ino, st.st_ctime_ns)
                with contextlib.suppress(FileExistsError):
                    keep(before_fd, label, src, st.st_size)
                image = os.fsdecode(label)
            finally:
                os.close(src)
    return {
        "root": root,
        "staged": text(path),
        "type": type_of(st.st_mode),
        "ino": st.st_ino,
        "meta": meta.to_json(),
        "image": image,
        "changed": expect is None or expect.saved,
    }


def load_meta(line: dict[str, Any]) -> Meta:
    """The attributes in a line of the index."""
    return Meta.from_json(line["meta"])


def held(before_fd: int) -> int:
    """Bytes on disk of all images in a commit's directory; shared ones (reflinks) count whole."""
    return sum(
        st.st_blocks * 512
        for name, st in listing(before_fd)
        if name.startswith((b"image.", LATE + b"."))
    )
