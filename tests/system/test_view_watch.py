"""A live base that is watched: what others change shows, and what nobody changes is not asked for
again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pytest

from daemons import User
from goexfsd.worker import Owner
from sides import acting
from views import View, mounted

UID = 21001
PATIENCE = 3.0


def plant(base: Path) -> None:
    for number in range(4):
        below = base / f"d{number}" / "e"
        below.mkdir(parents=True)
        for name in ("a", "b", "c"):
            (below / name).write_text(f"{number} {name}\n")
            (below.parent / name).write_text(f"{number} {name}\n")
        (below / "link").symlink_to("a")
    User(UID, UID).own(base)


@pytest.fixture
def view(arena: Path, btrfs_image: Path) -> Iterator[View]:
    base = arena / "base"
    base.mkdir()
    plant(base)
    with mounted(arena, [base], btrfs_image, Owner(UID, UID, ())) as view:
        yield view


NAMES = ("a", "b", "c", "x", "y", "e", "f", "link", "new", "busy")
PATHS = [
    *(top for top in ("d0", "d1", "d2", "d3", "g0", "g1")),
    *(f"{top}/{name}" for top in ("d0", "d1", "d2", "d3", "g0", "g1") for name in NAMES),
    *(
        f"{top}/{below}/{name}"
        for top in ("d0", "d1", "d2", "d3", "g0", "g1")
        for below in ("e", "f")
        for name in NAMES
    ),
]
"""All that there is, or could be."""


def glance(top: Path) -> dict[str, tuple[Any, ...]]:
    """What stat tells of each: no directory is listed and no file opened, for that would look at
    the base anew."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in PATHS:
        try:
            st = os.lstat(top / path)
        except OSError as error:
            found[path] = (error.errno,)
            continue
        size = (0, 0) if S_ISDIR(st.st_mode) else (st.st_nlink, st.st_size)
        found[path] = (st.st_mode, *size, st.st_mtime_ns)
    return found


def read(top: Path) -> dict[str, bytes]:
    """What is in all files, by listing."""
    return {
        os.path.relpath(os.path.join(at, name), top): Path(at, name).read_bytes()
        for at, _, names in os.walk(top)
        for name in names
        if not os.path.islink(os.path.join(at, name))
    }


def follows(view: View, own: tuple[str, ...] = ()) -> None:
    """Wait until the view shows the base, but for what the session has of its own; then read."""
    begin = time.monotonic()
    while True:
        with acting(UID):
            seen, there = glance(view.top), glance(view.roots[0])
        differ = [
            (path, seen[path], there[path])
            for path in PATHS
            if seen[path] != there[path] and not path.startswith(own)
        ]
        if not differ:
            break
        assert time.monotonic() - begin < PATIENCE, differ
        time.sleep(0.02)
    with acting(UID):
        inside, beside = read(view.top), read(view.roots[0])
    for path in {*inside, *beside}:
        if not path.startswith(own):
            assert inside.get(path) == beside.get(path), path


def requests(view: View) -> int:
    return int(view.command("stats")["requests"])


def test_what_nobody_changes_is_not_asked_for_again(view: View) -> None:
    with acting(UID):
        glance(view.top)
        time.sleep(1.5)
        glance(view.top)  # from here at the latest directories are watched
        time.sleep(1.5)
        there = [path for path, told in glance(view.top).items() if len(told) > 1]
        before = requests(view)
        for path in there:
            os.lstat(view.top / path)
    assert len(there) == 4 + 4 * 4 + 4 * 4
    assert requests(view) == before


def change(base: Path, dice: random.Random) -> None:
    """One random change to the base, by others."""

    def some() -> Path:
        return base / f"d{dice.randrange(4)}" / dice.choice(("", "e")) / dice.choice("abcxy")

    one, two = some(), some()
    directory = one.parent
    calls: list[Callable[[], Any]] = [
        lambda: one.write_bytes(dice.randbytes(dice.randrange(1, 9000))),
        lambda: one.unlink(),
        lambda: (directory / f"unseen-{dice.randrange(10**6)}").write_bytes(b"unseen"),
        lambda: one.rename(two),
        lambda: os.link(one, two),
        lambda: one.chmod(dice.choice((0o600, 0o644, 0o755))),
        lambda: os.utime(one, (dice.randrange(10**9), dice.randrange(10**9))),
        lambda: os.truncate(one, dice.randrange(5000)),
        lambda: os.symlink(dice.choice("ab"), two),
        lambda: (directory / "e").rename(base / f"d{dice.randrange(4)}" / "f"),
        lambda: (directory / "f").rename(directory / "e"),
        lambda: (directory / "f").mkdir(),
        lambda: directory.rename(base / f"g{dice.randrange(2)}"),
        lambda: (base / f"g{dice.randrange(2)}").rename(directory),
    ]
    try:
        dice.choice(calls)()
    except OSError:
        return
    User(UID, UID).own(base)


@pytest.mark.parametrize("seed", range(6))
def test_the_view_follows(view: View, seed: int) -> None:
    """Random changes by others, of what the kernel keeps and of what the session made its own."""
    dice = random.Random(seed)
    base = view.roots[0]
    own = ("d0", "d1", "own")
    with acting(UID):
        for path in ("d0/own", "d1/e/own", "own"):
            (view.top / path).write_text("the session's\n")
        with open(view.top / "d0" / "a", "a") as file:
            file.write("changed\n")
        glance(view.top)
        held = os.open(view.top / "d2/b", os.O_RDONLY)
        there = os.open(base / "d2/b", os.O_RDONLY)
    try:
        for _ in range(25):
            for _ in range(dice.randrange(1, 6)):
                change(base, dice)
            deadline = time.monotonic() + PATIENCE
            while os.fstat(held).st_size != os.fstat(there).st_size:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert os.pread(held, 10000, 0) == os.pread(there, 10000, 0)
            follows(view, own)
    finally:
        os.close(held)
        os.close(there)


def test_an_open_file(view: View) -> None:
    """By its handle alone, no name looked up."""
    base = view.roots[0]
    with acting(UID):
        glance(view.top)
        held = os.open(view.top / "d2" / "b", os.O_RDONLY)
    try:
        (base / "d2" / "b").write_text("longer than it was before\n")
        wait_until(lambda: os.fstat(held).st_size == 26)
        assert os.pread(held, 100, 0) == b"longer than it was before\n"
        (base / "d2" / "b").chmod(0o600)
        wait_until(lambda: os.fstat(held).st_mode & 0o777 == 0o600)
        (base / "d2" / "b").unlink()
        wait_until(lambda: os.fstat(held).st_nlink == 0)
    finally:
        os.close(held)


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_directory_s_own_time(view: View) -> None:
    """It changes with names that nobody in the view has ever asked for."""
    base = view.roots[0]
    with acting(UID):
        glance(view.top)
        time.sleep(1.5)
        glance(view.top)
    (base / "d1" / "e" / "unseen").write_text("")
    there = (base / "d1" / "e").stat().st_mtime_ns
    with acting(UID):
        wait_until(lambda: os.lstat(view.top / "d1" / "e").st_mtime_ns == there)


def test_a_file_with_a_name_elsewhere(view: View, arena: Path) -> None:
    """What happens under that no watch tells."""
    base = view.roots[0]
    os.link(base / "d0" / "a", arena / "elsewhere")
    with acting(UID):
        glance(view.top)
    (arena / "elsewhere").write_text("changed elsewhere\n")
    follows(view)


def test_lost_events(view: View) -> None:
    """More happens at once than the kernel keeps for us to read."""
    assert view.process is not None
    base = view.roots[0]
    with acting(UID):
        glance(view.top)
    os.kill(view.process.pid, signal.SIGSTOP)
    try:
        for number in range(9000):
            name = base / "d0" / "abc"[number % 3]
            os.utime(name, (number, number))
            os.utime(base / "d1" / "e" / "abc"[number % 3], (number, number))
        (base / "d3" / "e" / "a").write_text("the last\n")
        (base / "d3" / "e" / "new").write_text("new\n")
        os.chown(base / "d3" / "e" / "new", UID, UID)
    finally:
        os.kill(view.process.pid, signal.SIGCONT)
    follows(view)
    (base / "d3" / "e" / "a").write_text("the very last\n")
    follows(view)


def test_a_busy_directory_is_left_alone(view: View) -> None:
    base = view.roots[0]
    with acting(UID):
        glance(view.top)
    for number in range(1500):
        (base / "d0" / "busy").write_text(f"{number}\n" * (number % 7 + 1))
        if number % 100 == 0:
            time.sleep(0.05)
    os.chown(base / "d0" / "busy", UID, UID)
    time.sleep(0.5)
    (base / "d0" / "a").write_text("after that\n")
    (base / "d1" / "a").write_text("after that\n")
    follows(view)


def test_without_watches(arena: Path, btrfs_image: Path) -> None:
    """Each second then, as ever."""
    base = arena / "base"
    base.mkdir()
    plant(base)
    with mounted(arena, [base], btrfs_image, Owner(UID, UID, ()), watch=False) as view:
        with acting(UID):
            glance(view.top)
        (base / "d0" / "a").write_text("other\n")
        (base / "d1" / "e" / "b").unlink()
        follows(view)
