"""Files that are open past the view: the same as on a disk, nothing hidden from the review, and
nothing registered that the worker could not write itself."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import User
from goexfsd import backing
from goexfsd.view.through import NUMBER
from goexfsd.worker import Owner
from sides import acting
from views import View, create_layer, mounted

UID = 21001
SIZE = 300 << 10


@pytest.fixture
def view(arena: Path, btrfs_image: Path) -> Iterator[View]:
    """A view of an ordinary user's, with passthrough, and a large file ``big`` in its layer."""
    base = arena / "base"
    base.mkdir()
    (base / "below").write_bytes(os.urandom(SIZE))
    User(UID, UID).own(base)
    with mounted(arena, [base], btrfs_image, Owner(UID, UID, ()), passthrough=True) as view:
        with acting(UID):
            (view.top / "big").write_bytes(os.urandom(SIZE))
        yield view


def requests(view: View) -> int:
    return int(view.command("stats")["requests"])


def passes(view: View, fd: int) -> bool:
    """Whether what is written to this file goes past the view."""
    before = requests(view)
    for _ in range(40):
        os.pwrite(fd, b"x", 7)
    return requests(view) - before < 20


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    with acting(UID):
        fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def settled(view: View) -> None:
    """Until the view has heard of what was closed."""
    deadline = time.monotonic() + 10
    while view.command("stats")["open_files"] and time.monotonic() < deadline:
        time.sleep(0.01)


# -- when ------------------------------------------------------------------------------------------


def test_what_goes_past_the_view(view: View) -> None:
    with opened(view.top / "big") as fd:
        assert passes(view, fd)
        with opened(view.top / "big") as other:
            assert passes(view, other)
    with acting(UID):
        fresh = os.open(view.top / "fresh", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fresh, bytes(SIZE))
    assert not passes(view, fresh)
    with opened(view.top / "fresh") as again:  # it is open the other way already
        assert not passes(view, again)
    os.close(fresh)
    settled(view)
    with opened(view.top / "fresh") as again:
        assert passes(view, again)
    with opened(view.top / "below") as fd:
        assert not passes(view, fd)
    settled(view)
    with opened(view.top / "below") as fd:  # it was copied up
        assert passes(view, fd)


def test_what_the_view_must_see_does_not(view: View) -> None:
    big = view.top / "big"
    with acting(UID):
        big.chmod(0o4755)
    with opened(big) as fd:
        assert not passes(view, fd)
        assert big.stat().st_mode & 0o4000 == 0
    view.command("step", number=1, quota=[1 << 30, 1000])
    with opened(big) as fd:
        assert not passes(view, fd)
    view.command("step", number=0, quota=None)
    with opened(big) as fd:
        assert passes(view, fd)


def test_where_the_daemon_is_silent_all_goes_by_the_view(arena: Path, btrfs_image: Path) -> None:
    base = arena / "base"
    base.mkdir()
    User(UID, UID).own(base)
    with mounted(arena, [base], btrfs_image, Owner(UID, UID, ())) as view:
        with acting(UID):
            (view.top / "big").write_bytes(bytes(SIZE))
        with opened(view.top / "big") as fd:
            assert not passes(view, fd)


# -- the same as on a disk -------------------------------------------------------------------------


class Pair:
    """The same calls on a file in the view and on one beside it."""

    def __init__(self, here: Path, there: Path) -> None:
        self.tops = (here, there)
        self.fds: list[tuple[int, int]] = []

    def both(self, call: Callable[[int], Any]) -> None:
        told = []
        for side in (0, 1):
            try:
                told.append(call(side))
            except OSError as error:
                told.append(errno.errorcode[error.errno or 0])
        assert told[0] == told[1]

    def open(self, name: str, flags: int) -> None:
        found = []
        for top in self.tops:
            try:
                found.append(os.open(top / name, flags, 0o644))
            except OSError as error:
                found.append(-(error.errno or 0))
        if min(found) < 0:
            assert found[0] == found[1]
        else:
            self.fds.append((found[0], found[1]))

    def close(self, dice: random.Random) -> None:
        if self.fds:
            for fd in self.fds.pop(dice.randrange(len(self.fds))):
                os.close(fd)


def mapped(fd: int, at: int, data: bytes) -> bytes:
    if not os.fstat(fd).st_size:
        return b""
    with mmap.mmap(fd, 0) as memory:
        at = min(at, len(memory) - 1)
        data = data[: len(memory) - at]
        memory[at : at + len(data)] = data
        return bytes(memory[:100])


def copied(source: int, target: int, at: int, to: int, length: int) -> int:
    done = os.copy_file_range(source, target, length, at, to)
    return min(done, 0)  # how much at once is the file system's to choose


def step(pair: Pair, dice: random.Random) -> None:
    """One random call, on both sides."""
    name, other = dice.choice(("a", "b")), dice.choice(("a", "b", "c"))
    at, data = dice.randrange(SIZE * 2), dice.randbytes(dice.choice((1, 100, 5000, 70000)))
    length = dice.randrange(1, SIZE * 2)
    if not pair.fds or dice.random() < 0.2:
        flags = dice.choice((os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_WRONLY))
        flags |= dice.choice((0, 0, 0, os.O_APPEND, os.O_TRUNC, os.O_CREAT))
        pair.open(name, flags)
        return
    fds, more = dice.choice(pair.fds), dice.choice(pair.fds)
    calls: list[Callable[[int], Any]] = [
        lambda side: os.pread(fds[side], length, at),
        lambda side: os.pwrite(fds[side], data, at),
        lambda side: os.pwrite(fds[side], data, at),
        lambda side: os.write(fds[side], data),
        lambda side: os.read(fds[side], length),
        lambda side: os.lseek(fds[side], at, os.SEEK_SET),
        lambda side: os.lseek(fds[side], 0, os.SEEK_END),
        lambda side: os.ftruncate(fds[side], length),
        lambda side: os.truncate(pair.tops[side] / name, length),
        lambda side: os.posix_fallocate(fds[side], at, length),
        lambda side: mapped(fds[side], at, data),
        lambda side: copied(fds[side], more[side], at, length, 50_000),
        lambda side: os.fstat(fds[side]).st_size,
        lambda side: os.stat(pair.tops[side] / name).st_size,
        lambda side: (pair.tops[side] / name).read_bytes(),
        lambda side: os.fsync(fds[side]),
        lambda side: os.unlink(pair.tops[side] / name),
        lambda side: os.rename(pair.tops[side] / name, pair.tops[side] / other),
        lambda side: os.link(pair.tops[side] / name, pair.tops[side] / other),
        lambda side: os.stat(pair.tops[side] / name).st_nlink,
        lambda side: (pair.tops[side] / name).write_bytes(data * 5),
    ]
    if dice.random() < 0.2:
        pair.close(dice)
    else:
        pair.both(dice.choice(calls))


@pytest.mark.parametrize("seed", range(12))
def test_as_on_a_disk(view: View, tmp_path: Path, btrfs_image: Path, seed: int) -> None:
    """Random calls by many handles, some of them past the view: the same bytes and errors."""
    beside = btrfs_image / f"beside-{seed}"
    beside.mkdir()
    os.chown(beside, UID, UID)
    with acting(UID):
        (view.top / "below").rename(view.top / "b")
        (view.top / "big").rename(view.top / "a")
        for name in ("a", "b"):
            (beside / name).write_bytes((view.top / name).read_bytes())
        pair, dice = Pair(view.top, beside), random.Random(seed)
        for _ in range(250):
            step(pair, dice)
        while pair.fds:
            pair.close(dice)
        for name in ("a", "b", "c"):
            pair.both(lambda side, name=name: (pair.tops[side] / name).read_bytes())  # type: ignore[misc]


def test_times_and_pages_after(view: View) -> None:
    """What was written past the view is seen in the attributes, and in pages kept from before."""
    big = view.top / "big"
    with acting(UID):
        assert big.read_bytes() != b""
    before = big.stat().st_mtime_ns
    with opened(big) as fd, mmap.mmap(fd, SIZE) as memory:
        memory[:5] = b"hello"
        memory.flush()
        during = big.stat().st_mtime_ns
        assert during > before
        time.sleep(0.02)
        memory[5:10] = b"again"
        later = big.stat().st_mtime_ns
        assert later > during
    settled(view)
    assert big.stat().st_mtime_ns >= later
    view.command("step", number=1, quota=[1 << 30, 1000])  # from here by the view
    with opened(big, os.O_RDONLY) as fd:
        assert os.pread(fd, 10, 0) == b"helloagain"
    assert os.stat(big).st_mtime_ns == os.stat(view.layer / "upper/base/big").st_mtime_ns


# -- the review ------------------------------------------------------------------------------------


def test_what_is_open_for_writing_counts_as_changed(view: View) -> None:
    big = view.top / "big"

    def count() -> int:
        return int(view.command("sync")["mutations"])

    before = count()
    assert count() == before
    with opened(big, os.O_RDONLY):
        assert count() == before
    with opened(big):
        one = count()
        assert before < one < count()
    settled(view)
    after = count()
    assert after > one
    assert count() == after


def test_a_rewind_takes_the_name_and_leaves_the_bytes(view: View, btrfs_image: Path) -> None:
    big = view.top / "big"
    other = create_layer(btrfs_image / "other", view.owner, ["base"])
    with opened(big) as fd:
        assert passes(view, fd)
        view.rewind(other)
        assert not big.exists()
        os.pwrite(fd, b"still", 0)
        assert os.pread(fd, 5, 0) == b"still"
    with acting(UID):
        big.write_bytes(bytes(SIZE))
    settled(view)
    with opened(big) as fd:
        assert passes(view, fd)
        assert os.pread(fd, 5, 0) == bytes(5)


# -- what may be registered ------------------------------------------------------------------------


def test_the_kernel_accesses_them_as_the_owner(view: View) -> None:
    """The rights that it takes are those of who hands a file on: of the owner over files."""
    with opened(view.top / "big") as fd:
        assert passes(view, fd)
    status = Path(f"/proc/{view._backer}/status").read_text()
    ids = {line.split()[0]: line.split()[1:] for line in status.splitlines()}
    assert ids["Uid:"][3] == ids["Gid:"][3] == str(UID)  # of file access
    over_files = sum(1 << number for number in (0, 1, 2, 3, 4))  # CAP_CHOWN to CAP_FSETID
    assert int(ids["CapEff:"][0], 16) & over_files == 0


def test_only_files_that_the_worker_may_write(btrfs_image: Path, tmp_path: Path) -> None:
    store = btrfs_image / "store"
    store.mkdir()
    good = store / "file"
    good.write_bytes(b"data")
    (tmp_path / "elsewhere").write_bytes(b"data")
    sock = socket.socket(fileno=backing.serve(store, Owner(UID, UID, ())))
    sock.settimeout(10)
    null = os.open("/dev/null", os.O_RDWR)

    def asked(message: bytes, fd: int) -> int:
        socket.send_fds(sock, [message], [fd])
        return int(NUMBER.unpack(sock.recv(4))[0])

    assert asked(b"f", null) == 0
    for path, flags in (
        (good, os.O_RDONLY),
        (good, os.O_WRONLY),
        (good, os.O_PATH),
        (store, os.O_RDONLY),
        (Path("/dev/null"), os.O_RDWR),
    ):
        fd = os.open(path, flags)
        assert asked(b"o", fd) == -errno.EPERM, (path, flags)
        os.close(fd)
    for path in (Path("/proc/self/mem"), Path("/proc/self/oom_score_adj")):
        fd = os.open(path, os.O_RDWR)
        assert asked(b"o", fd) < 0
        os.close(fd)
    memory = os.memfd_create("x")
    assert asked(b"o", memory) < 0
    os.close(memory)
    fd = os.open(good, os.O_RDWR)
    assert asked(b"o", fd) == -errno.ENOTTY  # as far as the kernel, which wants /dev/fuse
    os.close(fd)
    os.close(null)
    sock.close()
