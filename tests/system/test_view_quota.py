"""What a layer may grow by during a step: the view answers EDQUOT, and counts what it should."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfsd.measure import look
from views import View, mounted

MIB = 1 << 20


@pytest.fixture
def view(arena: Path, btrfs_image: Path, tree: Path) -> Iterator[View]:
    (tree / "large").write_bytes(os.urandom(6 * MIB))
    with mounted(arena, [tree], btrfs_image) as mounted_view:
        yield mounted_view


def limit(view: View, size: int | None, inodes: int | None = None) -> None:
    reply = view.command("step", number=1, quota=[size, inodes, 0, 0])
    assert reply["met"] == []


def held(view: View) -> tuple[int, int]:
    fd = os.open(view.layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = look(fd)
    finally:
        os.close(fd)
    return found.bytes, found.inodes


@contextlib.contextmanager
def refused() -> Iterator[None]:
    with pytest.raises(OSError, match="quota") as caught:
        yield
    assert caught.value.errno == errno.EDQUOT


def fill(path: Path, mode: str = "wb") -> None:
    with open(path, mode, buffering=0) as file:
        while True:
            file.write(bytes(128 << 10))


def test_no_more_is_written_than_there_is_room_for(view: View) -> None:
    limit(view, 4 * MIB)
    with refused():
        fill(view.top / "one")
    with refused():
        fill(view.top / "two")
    assert 3.5 * MIB < held(view)[0] <= 4 * MIB + 4096
    with refused():  # copying it up would take 6 MiB
        fill(view.top / "large", "r+b")
    assert view.command("step", number=0)["met"] == ["layer_bytes"]
    (view.top / "more").write_bytes(bytes(5 * MIB))


def test_what_is_there_may_be_written_over(view: View) -> None:
    limit(view, 2 * MIB)
    with refused():
        fill(view.top / "full")
    with open(view.top / "full", "r+b", buffering=0) as file:
        assert file.write(b"x" * (128 << 10)) == 128 << 10
        with refused():
            os.pwrite(file.fileno(), b"x" * MIB, 100 * MIB)


def test_what_is_deleted_or_cut_off_makes_room(view: View) -> None:
    limit(view, 2 * MIB)
    for name in ("a", "b", "c"):
        with refused():
            fill(view.top / name)
        os.truncate(view.top / name, 0)
        with refused():
            fill(view.top / name)
        assert os.statvfs(view.top).f_bfree < 32
        os.unlink(view.top / name)
    os.truncate(view.top / "large", 0)
    with refused():
        fill(view.top / "large")


def test_a_deleted_file_that_is_open_takes_its_room(view: View) -> None:
    limit(view, 2 * MIB)
    with open(view.top / "ghost", "wb", buffering=0) as file:
        os.unlink(view.top / "ghost")
        with refused():
            while True:
                file.write(bytes(MIB))
        with refused():
            fill(view.top / "other")


def test_entries_are_counted_and_deleting_is_never_refused(view: View) -> None:
    limit(view, None, 3)
    (view.top / "dir").mkdir()
    os.symlink("x", view.top / "new-link")
    (view.top / "README.md").write_text("copied up")
    for make in (
        lambda: os.mkdir(view.top / "no"),
        lambda: os.mkfifo(view.top / "no"),
        lambda: os.symlink("x", view.top / "no"),
        lambda: os.open(view.top / "no", os.O_CREAT | os.O_WRONLY),
        lambda: os.open(view.top / "src" / "main.py", os.O_WRONLY | os.O_TRUNC),
    ):
        with refused():
            make()
    os.unlink(view.top / "src" / "main.py")
    assert os.statvfs(view.top).f_ffree == 0
    assert view.command("step", number=0)["met"] == ["layer_inodes"]


def test_statfs_shows_what_is_left(view: View) -> None:
    before = os.statvfs(view.top)
    limit(view, 8 * MIB, 1000)
    (view.top / "some").write_bytes(bytes(2 * MIB))
    found = os.statvfs(view.top)
    assert found.f_blocks * found.f_frsize == 8 * MIB
    assert 6 * MIB - 8192 <= found.f_bavail * found.f_frsize <= 6 * MIB
    assert (found.f_files, found.f_ffree) == (1000, 999)
    view.command("step", number=0)
    assert os.statvfs(view.top).f_blocks == before.f_blocks


def test_records_are_bounded_too(view: View) -> None:
    """A layer that is far over its limit takes none, for deletions neither."""
    view.command("step", number=1, quota=[MIB, None, 2 * MIB, 0])
    os.unlink(view.top / "README.md")
    view.command("step", number=2, quota=[MIB, None, 20 * MIB, 0])
    with refused():
        os.unlink(view.top / "src" / "main.py")
