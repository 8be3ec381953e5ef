"""One session over a base on each file system: read, copy up, rename, delete, mount again.

Whatever the base lies on, the session sees the same things and the base stays as it was.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bases import BASES, make_tree, mounted_at
from daemons import User
from goexfsd import kernel
from goexfsd.worker import Owner
from manifests import differences, manifest
from views import View, mounted


@pytest.fixture(params=sorted(BASES))
def base(request: pytest.FixtureRequest, arena: Path, ordinary_user: User) -> Iterator[Path]:
    """The small project on a file system of its own."""
    kind = str(request.param)
    if kind == "xfs" and not Path("/usr/sbin/mkfs.xfs").exists():
        pytest.skip("mkfs.xfs is not installed (package xfsprogs)")
    (arena / "under").mkdir()
    with BASES[kind](arena / "under") as at:
        tree = make_tree(at / "project", ordinary_user)
        before = manifest(tree)
        yield tree
        assert differences(before, manifest(tree)) == []


def _work(top: Path) -> None:
    """Something of everything that a session does to its base."""
    with open(top / "README.md", "a") as file:
        file.write("more\n")
    (top / "src" / "main.py").write_text("print('other')\n")
    (top / "run.sh").chmod(0o700)
    (top / "private").rename(top / "renamed")
    (top / "src" / "deep").rename(top / "moved")
    (top / "moved" / "er" / "new").write_text("new\n")
    (top / "link").unlink()
    (top / "empty").rmdir()
    (top / "made").mkdir()
    os.link(top / "run.sh", top / "made" / "linked")
    kernel.renameat2(-100, bytes(top / "pipe"), -100, bytes(top / "sparse"), kernel.RENAME_EXCHANGE)
    with open(top / "pipe", "r+b") as file:
        file.seek(1 << 20)
        file.write(b"middle")


def _check(top: Path) -> None:
    assert (top / "README.md").read_text() == "# project\nmore\n"
    assert os.getxattr(top / "README.md", "user.note") == b"kept"
    assert (top / "src" / "same.py").read_text() == "print('other')\n"
    assert (top / "src" / "same.py").stat().st_nlink == 2
    assert (top / "run.sh").stat().st_mode & 0o7777 == 0o700
    assert (top / "run.sh").samefile(top / "made" / "linked")
    assert (top / "renamed").read_text() == "secret\n"
    assert sorted(os.listdir(top / "moved" / "er")) == ["data.bin", "new"]
    assert (top / "moved" / "er" / "data.bin").read_bytes() == bytes(range(256)) * 64
    assert (top / "sparse").is_fifo()
    with open(top / "pipe", "rb") as file:
        assert file.read(4) == b"head"
        file.seek(1 << 20)
        assert file.read(7) == b"middle\0"
        file.seek(8 * 2**20)
        assert file.read() == b"tail"
    gone = ("private", "link", "empty", "src/deep")
    assert not any(os.path.lexists(top / name) for name in gone)


def test_a_session_over_each_file_system(base: Path, arena: Path, btrfs_image: Path) -> None:
    with mounted(arena, [base], btrfs_image) as view:
        assert differences(manifest(base, extents=False), manifest(view.top, extents=False)) == []
        _work(view.top)
        _check(view.top)
        seen = manifest(view.top, extents=False)
        numbers = _numbers(view)
        view.remount()
        _check(view.top)
        assert differences(seen, manifest(view.top, extents=False)) == []
        assert _numbers(view) == numbers


def _numbers(view: View) -> dict[str, int]:
    return {
        os.path.join(at, name): os.lstat(os.path.join(at, name)).st_ino
        for at, directories, files in os.walk(view.top)
        for name in (*directories, *files)
    }


def test_a_session_over_a_read_only_base(
    arena: Path, btrfs_image: Path, ext4_image: Path, ordinary_user: User
) -> None:
    tree = make_tree(ext4_image / "project", ordinary_user)
    before = manifest(tree)
    at = arena / "read-only"
    at.mkdir()
    with ExitStack() as stack:
        kernel.mount(str(tree), str(at), "", kernel.MS_BIND, "")
        stack.callback(subprocess.run, ["umount", str(at)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(at)], check=True)
        with mounted(arena, [at], btrfs_image) as view:
            _work(view.top)
            view.remount()
            _check(view.top)
        with pytest.raises(OSError, match="Read-only") as caught:
            (at / "new").touch()
        assert caught.value.errno == errno.EROFS
    assert differences(before, manifest(tree)) == []


def test_a_file_system_mounted_inside_a_root(
    arena: Path, btrfs_image: Path, ext4_image: Path, ordinary_user: User
) -> None:
    """It is shown, and changed in the layer, as if it were part of the base's own."""
    tree = make_tree(ext4_image / "project", ordinary_user)
    with mounted_at(tree / "empty" / "inner", "tmpfs") as inner:
        (inner / "file").write_text("inner\n")
        (inner / "dir").mkdir()
        (inner / "dir" / "below").write_text("below\n")
        before = manifest(tree)
        with mounted(arena, [tree], btrfs_image) as view:
            at = view.top / "empty" / "inner"
            numbers = _numbers(view)
            assert len(set(numbers.values())) == len(numbers) - 1  # main.py has two names
            (at / "file").write_text("changed\n")
            (at / "dir").rename(view.top / "out")
            (view.top / "private").rename(at / "in")
            view.remount()
            assert (at / "file").read_text() == "changed\n"
            assert (view.top / "out" / "below").read_text() == "below\n"
            assert (at / "in").read_text() == "secret\n"
            assert (at / "file").stat().st_ino == numbers[str(at / "file")]
        assert differences(before, manifest(tree)) == []


def test_reading_leaves_access_times_alone(
    arena: Path, btrfs_image: Path, ext4_image: Path, ordinary_user: User
) -> None:
    """All but those of symlinks, which nobody can read without."""
    tree = make_tree(ext4_image / "project", ordinary_user)
    paths = [path for path in (tree, *tree.rglob("*")) if not path.is_symlink()]
    for path in paths:
        os.utime(path, ns=(1, path.stat().st_mtime_ns))
    owner = Owner(ordinary_user.uid, ordinary_user.gid, ())
    with mounted(arena, [tree], btrfs_image, owner) as view:
        manifest(view.top)
        with open(view.top / "src" / "main.py", "a") as file:
            file.write("more")
    assert {path.stat().st_atime_ns for path in paths} == {1}
