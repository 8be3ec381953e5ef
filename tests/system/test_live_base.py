"""A base that others change while a session is open on it.

Every file says what it is: its name, a version, and that version's mark to the end.  So a read
tells one version of one file from anything else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from goexfsd import kernel
from views import View, mounted

NAMES = [f"{directory}{name}" for directory in ("", "x/", "y/") for name in "abcd"]
SIZES = [0, 40, 4096, 10_000, 70_000, 300_000]


def made_of(name: str, version: int, size: int) -> bytes:
    """The bytes of one version of a file."""
    head = f"{name} {version:08d} {size:08d}\n".encode()
    mark = f"{name.replace('/', '-')}.{version:08d};".encode()
    return head + (mark * (size // len(mark) + 1))[:size]


def check(data: bytes, name: str | None) -> None:
    """It is one version of one file, from its first byte to its last: of ``name``, if given."""
    head = data.split(b"\n", 1)[0].decode(errors="replace").split(" ")
    assert len(head) == 3, (name, data[:60])
    assert data == made_of(name or head[0], int(head[1]), int(head[2])), (name, head, len(data))


@pytest.fixture(params=["ext4_image", "btrfs_image"])
def view(request: pytest.FixtureRequest, arena: Path, btrfs_image: Path) -> Iterator[View]:
    base = Path(request.getfixturevalue(request.param)) / "base"
    for name in NAMES:
        (base / name).parent.mkdir(exist_ok=True, parents=True)
        (base / name).write_bytes(made_of(name, 0, SIZES[3]))
    with mounted(arena, [base], btrfs_image) as mounted_view:
        yield mounted_view


class Editor:
    """Somebody at work in the base."""

    def __init__(self, base: Path, dice: random.Random) -> None:
        self.base, self.dice = base, dice
        self.version = 0

    def fresh(self, name: str) -> bytes:
        self.version += 1
        return made_of(name, self.version, self.dice.choice(SIZES))

    def rewrite(self, name: str) -> None:
        """In place; as long as before, if it was there."""
        self.version += 1
        size = self.dice.choice(SIZES)
        path = self.base / name
        if path.exists() and self.dice.random() < 0.7:
            size = max(0, path.stat().st_size - len(made_of(name, 0, 0)))
            with open(path, "r+b") as file:
                file.write(made_of(name, self.version, size))
        else:
            path.write_bytes(made_of(name, self.version, size))

    def replace(self, name: str) -> None:
        aside = self.base / ".aside"
        aside.write_bytes(self.fresh(name))
        aside.rename(self.base / name)

    def delete(self, name: str) -> None:
        (self.base / name).unlink(missing_ok=True)

    def swap(self, name: str) -> None:
        """Two files change places, and then their contents do: each name has its own again."""
        other = self.dice.choice(NAMES)
        one, two = self.base / name, self.base / other
        if name != other and one.exists() and two.exists():
            one.write_bytes(made_of(other, self.version + 1, SIZES[2]))
            two.write_bytes(made_of(name, self.version + 2, SIZES[3]))
            self.version += 2
            kernel.renameat2(-100, bytes(one), -100, bytes(two), kernel.RENAME_EXCHANGE)

    def directories(self, name: str) -> None:
        """A directory is replaced by another with all its names."""
        aside = self.base / "new"
        aside.mkdir()
        for each in NAMES:
            if each.startswith("x/"):
                (aside / each[2:]).write_bytes(self.fresh(each))
        kernel.renameat2(-100, bytes(aside), -100, bytes(self.base / "x"), kernel.RENAME_EXCHANGE)
        for path in aside.iterdir():
            path.unlink()
        aside.rmdir()
        del name

    def act(self) -> None:
        acts: list[Callable[[str], None]] = [
            self.rewrite, self.rewrite, self.replace, self.replace, self.delete, self.swap,
            self.directories,
        ]  # fmt: skip
        self.dice.choice(acts)(self.dice.choice(NAMES))


def content(path: Path) -> bytes | None:
    """The file's bytes; None if it is not there, or was replaced twice while it was opened (the
    kernel asks once more, then gives up, as over NFS)."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return None


def test_each_read_is_of_one_version(view: View) -> None:
    """What is opened after an edit is one version, whole: the one before or the one now; and an
    open file is read as one version too."""
    dice = random.Random(5)
    base, top = view.roots[0], view.top
    editor = Editor(base, dice)
    kept: dict[str, int] = {}
    touched: dict[str, bytes | None] = {}
    try:
        for number in range(400):
            editor.act()
            name = dice.choice(NAMES)
            data = content(top / name)
            if name in touched:
                assert data == touched[name], name
                continue
            if data is not None:
                check(data, name)
            if name in kept:
                _check_open(kept[name])
            elif data is not None and dice.random() < 0.3:
                kept[name] = os.open(top / name, os.O_RDONLY)
                os.pread(kept[name], 5000, 0)
            if number % 40 == 39 and name not in kept:
                touched[name] = f"the session's {name}\n".encode()
                (top / name).write_bytes(touched[name] or b"")
    finally:
        for fd in kept.values():
            os.close(fd)
    _until(lambda: _shows_all(base, top, touched))


def test_what_came_or_went_a_moment_ago_is_no_error(view: View) -> None:
    """The kernel still believes what it was told of a name: opening for writing looks again."""
    base, top = view.roots[0], view.top
    assert not (top / "new").exists()
    (base / "new").write_text("theirs")
    with open(top / "new", "a") as file:
        file.write(", and ours")
    assert (top / "new").read_text() == "theirs, and ours"
    assert not (top / "other").exists()
    (base / "other").symlink_to("new")
    assert not (top / "third").exists()
    (base / "third").write_text("theirs")
    with pytest.raises(FileExistsError):
        open(top / "third", "x").close()
    with open(top / "other", "a") as file:
        file.write("!")
    assert (top / "new").read_text() == "theirs, and ours!"
    assert (top / "x" / "a").stat()
    (base / "x" / "a").unlink()
    (top / "x" / "a").write_text("ours")
    assert (top / "x" / "a").read_text() == "ours"
    assert (top / "b").stat()
    (base / "b").unlink()
    with pytest.raises(FileNotFoundError):
        os.truncate(top / "b", 0)
    assert not (base / "x" / "a").exists()


def _check_open(fd: int) -> None:
    """A file that is open reads as one version, once a read has found out that it changed."""
    data = os.pread(fd, 1 << 20, 0)
    if data != os.pread(fd, 1 << 20, 0):
        data = os.pread(fd, 1 << 20, 0)
    check(data, None)


def _shows_all(base: Path, top: Path, touched: dict[str, bytes | None]) -> bool:
    for name in NAMES:
        wanted = touched.get(name, content(base / name))
        if content(top / name) != wanted:
            return False
    return {path.name for path in top.iterdir()} >= {path.name for path in base.iterdir()}


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_it_never_hangs_or_dies_under_both(view: View) -> None:
    """Others replace, delete and exchange while processes read, list and write through the view."""
    base, top = view.roots[0], view.top
    readers = [_in_child(partial(_read_on, top, seed)) for seed in range(3)]
    writer = _in_child(lambda: _write_on(top))
    editor = Editor(base, random.Random(6))
    acts = [editor.replace, editor.replace, editor.delete, editor.directories]
    for _ in range(600):
        editor.dice.choice(acts)(editor.dice.choice(NAMES))
    for pid in (*readers, writer):
        os.kill(pid, signal.SIGUSR1)
    assert [os.waitpid(pid, 0)[1] for pid in (*readers, writer)] == [0] * 4
    touched: dict[str, bytes | None] = {"y/d": (top / "y" / "d").read_bytes()}
    assert touched["y/d"] is not None
    assert touched["y/d"].startswith(b"session ")
    _until(lambda: _shows_all(base, top, touched))
    assert view.command("stats")["ok"]


def _in_child(work: Callable[[], None]) -> int:
    """Run ``work`` in a process until it is told to end; it exits with 0 if nothing was wrong."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _going_on() -> Callable[[], bool]:
    ended: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: ended.append(number))
    return lambda: not ended


def _read_on(top: Path, seed: int) -> None:
    going_on = _going_on()
    dice = random.Random(seed)
    while going_on():
        name = dice.choice(NAMES)
        if name == "y/d":
            continue
        if dice.random() < 0.1:
            _list(top / "x")
            continue
        data = content(top / name)
        if data is not None:
            check(data, name)


def _list(directory: Path) -> None:
    with contextlib.suppress(OSError):  # ESTALE, as in ``content``
        names = os.listdir(directory)
        assert len(names) == len(set(names)) <= 5  # one is the writer's


def _write_on(top: Path) -> None:
    going_on = _going_on()
    count = 0
    while going_on() or count < 10:
        count += 1
        (top / "y" / "d").write_bytes(b"session %d\n" % count)
        assert (top / "y" / "d").read_bytes() == b"session %d\n" % count
        made = top / "x" / f"made-{os.getpid()}"
        try:
            made.write_bytes(b"made\n")
            made.unlink()
        except OSError as error:
            # The directory was replaced, and what was made in it is elsewhere.
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise
