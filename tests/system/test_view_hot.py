"""The compiled part of the view: that it is there, does what it is for, and keeps nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemons import User
from goexfsd.view import hot
from goexfsd.worker import Owner
from sides import acting
from views import View, mounted

UID = 21001
FILES = 300


@pytest.fixture
def view(arena: Path, btrfs_image: Path) -> Iterator[View]:
    """An ordinary user's, over a directory ``d`` of small files."""
    base = arena / "base"
    (base / "d").mkdir(parents=True)
    for number in range(FILES):
        (base / "d" / f"{number}").write_text(f"{number}")
    User(UID, UID).own(base)
    with mounted(arena, [base], btrfs_image, Owner(UID, UID, ())) as one:
        yield one


def test_goexfs_was_built_with_it() -> None:
    assert hot.load()


def look(top: Path) -> None:
    for entry in os.scandir(top / "d"):
        os.lstat(entry.path)


def find(top: Path) -> None:
    for number in range(FILES):
        assert (top / "d" / f"{number}").stat().st_size < 4


def read(top: Path) -> None:
    for number in range(FILES):
        assert (top / "d" / f"{number}").read_text() == f"{number}"


def missing(top: Path) -> None:
    for number in range(FILES):
        assert not (top / "d" / f"no-{number}").exists()


def create(top: Path) -> None:
    (top / "new").mkdir(exist_ok=True)
    (top / "new" / "first").write_text("1")
    for number in range(FILES):
        (top / "new" / f"{number}").write_text("1")


WORK = (find, read, missing, create)


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_plain_requests_do_not_reach_python(view: View, work: Callable[[Path], None]) -> None:
    before = view.command("stats")
    with acting(UID):
        work(view.top)
    after = view.command("stats")
    plain, all_of_them = (after[name] - before[name] for name in ("plain", "requests"))
    assert plain > 0.9 * all_of_them > 0


def test_it_keeps_nothing(view: View) -> None:
    """Memory does not grow with what is asked again and again."""

    def ask() -> None:
        with acting(UID):
            for number in range(FILES):
                fd = os.open(view.top / "d" / f"{number}", os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.pread(fd, 10, 0)
                os.close(fd)
            for round_ in range(10):
                path = view.top / f"new-{round_}"
                path.write_text("new")
                os.utime(path)
                path.unlink()
            view_entries(view.top)

    def view_entries(top: Path) -> None:
        os.utime(top / "d")  # so that it is listed anew
        look(top)
        missing(top)

    for _ in range(10):
        ask()
    before = view.command("stats")
    for _ in range(60):
        ask()
    after = view.command("stats")
    assert after["plain"] - before["plain"] > 60 * 3 * FILES
    assert after["nodes"] <= before["nodes"] + 20
    # A reference of 32 bytes that is lost with one request in two would be more.
    assert after["rss_kb"] - before["rss_kb"] < 800


def test_a_file_that_came_from_others_is_not_made(view: View) -> None:
    """The view was asked for the name, told that there is none, and then somebody else made it."""
    with acting(UID):
        (view.top / "d" / "own").write_text("the directory is in the layer now")
        assert not (view.top / "d" / "late").exists()
        (view.roots[0] / "d" / "late").write_text("theirs")
        (view.roots[0] / "d" / "later").write_text("theirs")
        for name in ("late", "later"):
            with pytest.raises(FileExistsError):
                os.open(view.top / "d" / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            assert (view.top / "d" / name).read_text() == "theirs"


@pytest.mark.parametrize("mode", [0o644, 0o4711, 0o2755, 0o600, 0o444, 0o000, 0o200])
@pytest.mark.parametrize("umask", [0o022, 0o777, 0])
def test_modes_of_new_files_are_the_disk_s(view: View, mode: int, umask: int) -> None:
    told = []
    (view.top.parent / "plain").mkdir()
    os.chown(view.top.parent / "plain", UID, UID)
    with acting(UID):
        os.mkdir(view.top / "fresh")
        before = os.umask(umask)
        try:
            for top in (view.top / "fresh", view.top.parent / "plain"):
                os.umask(0)
                (top / "warm").write_text("")
                os.umask(umask)
                fd = os.open(top / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
                os.write(fd, b"some")
                os.close(fd)
                told.append(oct((top / "new").stat().st_mode))
        finally:
            os.umask(before)
    assert told[0] == told[1]


@pytest.mark.parametrize("compiled", [True, False])
def test_opening_looks_at_the_file(arena: Path, btrfs_image: Path, compiled: bool) -> None:
    """Whatever the kernel may keep: who opens a base file reads what is in it then."""
    base = arena / "base"
    base.mkdir()
    (base / "file").write_bytes(b"0" * 5000)
    User(UID, UID).own(base)
    owner = Owner(UID, UID, ())
    served = mounted(arena, [base], btrfs_image, owner, watch=False, compiled=compiled)
    with served as view, acting(UID):
        for number in range(1, 40):
            wanted = b"%d" % (number % 10) * 5000
            with open(base / "file", "r+b") as file:
                file.write(wanted)
            fd = os.open(view.top / "file", os.O_RDONLY)
            assert os.read(fd, 9000) == wanted
            os.close(fd)
