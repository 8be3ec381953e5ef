"""The view against a plain directory: the same operations on both, the same trees and errnos.

Hypothesis makes up sequences of operations over few names, so that they meet: hard links,
renames over and into each other, open handles, remounts.  The plain directory is a copy of the
base on the btrfs that also holds the layer.  At the end the base is what it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemons import User
from goexfsd import kernel
from goexfsd.worker import Owner
from views import View, create_layer, store

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

PARTS = ["a", "b", "d", "e"]
paths = st.lists(st.sampled_from(PARTS), min_size=1, max_size=3).map("/".join)
texts = st.binary(max_size=12)
modes = st.sampled_from([0o644, 0o600, 0o755, 0o400, 0o4755, 0o2775, 0o1777, 0])
xattrs = st.sampled_from(["user.x", "user.overlay.opaque", "user.overlay.redirect", "trusted.t"])

ops = st.one_of(
    st.tuples(st.just("write"), paths, st.integers(0, 9000), texts),
    st.tuples(st.just("append"), paths, texts),
    st.tuples(st.just("replace"), paths, texts),
    st.tuples(st.just("create"), paths, texts),
    st.tuples(st.just("truncate"), paths, st.integers(0, 9000)),
    st.tuples(st.just("mkdir"), paths, modes),
    st.tuples(st.just("rmdir"), paths),
    st.tuples(st.just("unlink"), paths),
    st.tuples(st.just("rmtree"), paths),
    st.tuples(st.just("rename"), paths, paths, st.sampled_from([0, 0, 0, 1, 2])),
    st.tuples(st.just("link"), paths, paths),
    st.tuples(st.just("symlink"), st.just("a/b"), paths),
    st.tuples(st.just("mkfifo"), paths),
    st.tuples(st.just("chmod"), paths, modes),
    st.tuples(st.just("chown"), paths, st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.just("utime"), paths, st.integers(0, 10**18)),
    st.tuples(st.just("setxattr"), paths, xattrs, texts),
    st.tuples(st.just("removexattr"), paths, xattrs),
    st.tuples(st.just("listdir"), paths),
    st.tuples(st.just("open"), paths),
    st.tuples(st.just("handle-write"), st.integers(0, 5), st.integers(0, 100), texts),
    st.tuples(st.just("handle-read"), st.integers(0, 5)),
    st.tuples(st.just("handle-truncate"), st.integers(0, 5), st.integers(0, 100)),
    st.tuples(st.just("handle-stat"), st.integers(0, 5)),
    st.tuples(st.just("close"), st.integers(0, 5)),
    st.just(("remount",)),
    st.just(("step",)),
)


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


def fill(base: Path) -> None:
    """A base with one of everything, over the names that the operations use."""
    (base / "d" / "e" / "d").mkdir(parents=True)
    (base / "e").mkdir()
    (base / "a").write_bytes(b"base a" * 1000)
    (base / "d" / "a").write_bytes(b"base d/a")
    (base / "d" / "e" / "b").write_bytes(b"base d/e/b")
    (base / "d" / "e" / "d" / "a").write_bytes(b"deep")
    os.link(base / "d" / "a", base / "e" / "a")
    os.link(base / "d" / "a", base / "d" / "e" / "a")
    os.symlink("d/a", base / "b")
    os.mkfifo(base / "d" / "b")
    os.setxattr(base / "a", "user.x", b"was here")
    os.setxattr(base / "d", "user.x", b"dir")
    os.chmod(base / "d" / "e", 0o2755)
    for directory, names, files in os.walk(base, topdown=False):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            os.utime(path, ns=(10**18, 10**18), follow_symlinks=False)


@pytest.fixture(scope="module")
def arena() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="model-"))
    directory.chmod(0o755)
    with store(directory) as at:
        make_bases(at)
        yield at
    shutil.rmtree(directory)


def make_bases(at: Path) -> None:
    """A base of root's and one of an ordinary user's."""
    for uid in UIDS:
        base = at / f"base{uid}"
        base.mkdir()
        fill(base)
        User(uid, uid).own(base)
        (base / "d" / "e").chmod(0o2755)


UIDS = (0, 21001)


@pytest.mark.parametrize("uid", UIDS)
@settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(steps=st.lists(ops, max_size=40))
def test_view_equals_a_plain_directory(arena: Path, steps: list[Any], uid: int) -> None:
    run(arena, steps, uid)


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


def run(arena: Path, steps: list[Any], uid: int = 0) -> None:
    """One sequence on a fresh view and a fresh copy, in a session of ``uid``."""
    base, plain = arena / f"base{uid}", arena / "plain"
    subprocess.run(["cp", "-a", str(base), str(plain)], check=True)
    before = picture(os.fsencode(base))
    layer = create_layer(arena / "layer", Owner(uid, uid, ()), [base.name])
    view = View([base], layer, arena.parent / "mnt", Owner(uid, uid, ())).start()
    sides = Side(view.top), Side(plain)
    try:
        for number, op in enumerate(steps):
            if op[0] == "remount":
                for side in sides:
                    side.close_all()
                view.remount()
                continue
            if op[0] == "step":
                view.command("step", number=number)
                continue
            with acting(uid):
                got, wanted = (side.do(op) for side in sides)
            assert got == wanted, (op, got, wanted)
        with acting(uid):
            compare(sides)
        for side in sides:
            side.close_all()
        view.remount()
        with acting(uid):
            compare(sides)
        assert picture(os.fsencode(base)) == before, "the base changed"
        assert not os.listdir(layer / "work"), "litter in work"
    finally:
        for side in sides:
            side.close_all()
        view.stop()
        view.mountpoint.rmdir()
        for path in (plain,):
            shutil.rmtree(path)
        subprocess.run(["btrfs", "-q", "subvolume", "delete", str(layer)], check=True)
