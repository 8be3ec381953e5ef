"""What pyfuse3 cannot pass on: what the lane answers in its place (fallocate, holes, ranges, files
without a name), and what programs get that ask for the rest
(``docs/decisions/0011-unpassed-calls.md``)."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from views import View, mounted

_SIZE = 16 << 20
_FICLONE = 0x40049409
_ZEROS = bytes(4096)


@pytest.fixture
def here(arena: Path, btrfs_image: Path) -> Iterator[Path]:
    """The top of a view; in its base a file of random bytes and one that is nearly all hole."""
    base = arena / "base"
    base.mkdir()
    (base / "full").write_bytes(os.urandom(1 << 20))
    with open(base / "sparse", "wb") as file:
        file.write(b"head")
        file.truncate(_SIZE)
    with mounted(arena, [base], btrfs_image) as view:
        yield _looked_at(view)


def _looked_at(view: View) -> Path:
    """A copied-up sparse file beside the one of the base."""
    with open(view.top / "sparse", "rb") as source, open(view.top / "made", "wb") as file:
        file.write(source.read(4))
        file.truncate(_SIZE)
    return view.top


def held(path: Path) -> tuple[int, bool]:
    """A file's size, and whether it is sparse."""
    status = path.stat()
    return status.st_size, status.st_blocks * 512 < status.st_size // 2


def same(one: Path, two: Path) -> bool:
    return subprocess.run(["cmp", str(one), str(two)], check=False).returncode == 0


COMMANDS = {
    "cp --reflink=auto {} to": None,
    "cp --sparse=always {} to": True,
    "cp --sparse=auto {} to": None,
    "cp --sparse=never {} to": False,
    "cp -a {} to": None,
    "rsync --sparse {} to": True,
    "rsync --preallocate {} to": None,
    "rsync --inplace {} to": False,
    "dd if={} of=to conv=sparse bs=64K status=none": True,
    "dd if={} of=to oflag=direct iflag=direct bs=64K status=none": False,
    "install {} to": None,
}
"""What is run, and whether the copy of a sparse file is sparse (None: left to the program)."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("source", ["full", "sparse", "made"])
def test_programs_that_copy(here: Path, command: str, source: str) -> None:
    subprocess.run(command.format(source).split(), cwd=here, check=True, capture_output=True)
    assert same(here / source, here / "to")
    size, sparse = held(here / "to")
    assert size == (here / source).stat().st_size
    wanted = COMMANDS[command]
    if source != "full" and wanted is not None:
        assert sparse == wanted


def test_a_clone_is_refused_as_on_a_disk_that_has_none(here: Path) -> None:
    with open(here / "full", "rb") as source, open(here / "to", "wb") as file:
        with pytest.raises(OSError, match="not supported") as caught:
            fcntl.ioctl(file, _FICLONE, source.fileno())
        assert caught.value.errno == errno.EOPNOTSUPP
    done = subprocess.run(["cp", "--reflink=always", "full", "to"], cwd=here, check=False)
    assert done.returncode == 1
    assert (here / "to").stat().st_size == 0


def test_space_is_preallocated(here: Path) -> None:
    with open(here / "to", "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        assert held(here / "to") == (1 << 20, False)
        file.write(b"kept")
        file.flush()
        os.posix_fallocate(file.fileno(), 0, 2 << 20)
        assert os.pread(file.fileno(), 6, 0) == b"kept\0\0"
    for arguments in ("-l 1M", "-x -l 1M", "-n -l 2M", "-p -l 4K", "-z -l 64K"):
        subprocess.run(["fallocate", *arguments.split(), "other"], cwd=here, check=True)
    assert (here / "other").stat().st_size == 1 << 20
    with open(here / "other", "rb") as file:
        assert file.read() == bytes(1 << 20)


def test_holes_are_punched_in_what_was_copied_up(here: Path) -> None:
    before = (here / "full").read_bytes()
    subprocess.run(["fallocate", "-p", "-o", "4K", "-l", "512K", "full"], cwd=here, check=True)
    assert (here / "full").read_bytes() == before[:4096] + bytes(512 << 10) + before[516 << 10 :]
    assert (here / "full").stat().st_blocks * 512 <= 600 << 10


def test_a_large_file_is_copied_up_for_it(here: Path, arena: Path) -> None:
    """While it is, others are served."""
    content = os.urandom(1 << 20) * 9
    (arena / "base" / "large").write_bytes(content)
    with open(here / "large", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 10 << 20)
    assert (here / "large").read_bytes() == content + bytes(1 << 20)


def test_preallocation_keeps_what_the_base_has(here: Path) -> None:
    before = (here / "full").read_bytes()
    with open(here / "full", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 3 << 20)
    assert (here / "full").read_bytes() == before + bytes(2 << 20)


@pytest.mark.parametrize("name", ["sparse", "made"])
def test_holes_are_told_and_read_as_zeros(here: Path, name: str) -> None:
    with open(here / name, "rb") as file:
        fd = file.fileno()
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 4096
        with pytest.raises(OSError, match="No such device"):
            os.lseek(fd, 8 << 20, os.SEEK_DATA)
        with pytest.raises(OSError, match="No such device"):
            os.lseek(fd, _SIZE, os.SEEK_DATA)
        assert os.pread(fd, 4096, 8 << 20) == _ZEROS
    assert held(here / name) == (_SIZE, True)
    subprocess.run(["tar", "cSf", "t.tar", name], cwd=here, check=True)
    assert (here / "t.tar").stat().st_size < 1 << 20


def test_ranges_are_copied(here: Path, arena: Path) -> None:
    with open(here / "full", "rb") as source, open(here / "to", "w+b") as file:
        assert os.copy_file_range(source.fileno(), file.fileno(), 1 << 20) == 1 << 20
        assert os.copy_file_range(source.fileno(), file.fileno(), 100, 0, 2 << 20) == 100
        assert os.sendfile(file.fileno(), source.fileno(), 0, 1 << 20) == 1 << 20
    assert (here / "to").read_bytes()[: 1 << 20] == (here / "full").read_bytes()
    # Out of the view as out of any file system: refused, and programs copy.
    with (
        open(here / "full", "rb") as source,
        open(arena / "out", "wb") as file,
        pytest.raises(OSError, match="cross-device"),
    ):
        os.copy_file_range(source.fileno(), file.fileno(), 4096)
    shutil.copyfile(here / "full", arena / "out")
    subprocess.run(["mv", str(arena / "out"), str(here / "in")], check=True)
    assert same(here / "full", here / "in")


def test_ranges_within_a_store_are_shared(here: Path) -> None:
    """A large file of the layer is copied without its data."""
    with open(here / "one", "wb") as file:
        file.write(os.urandom(1 << 20) * 40)
    subprocess.run(["cp", "one", "two"], cwd=here, check=True)
    assert same(here / "one", here / "two")
    with open(here / "two", "r+b") as file:
        file.write(b"other")
    assert (here / "one").read_bytes()[5:] == (here / "two").read_bytes()[5:]
    assert not same(here / "one", here / "two")


def named(fd: int, path: Path) -> None:
    """linkat(2) as its manual shows it for O_TMPFILE."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.link(f"/proc/self/fd/{fd}", path.name, dst_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def test_files_without_a_name(here: Path) -> None:
    with tempfile.TemporaryFile(dir=here) as file:
        file.write(b"x")
    fd = os.open(here, os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(fd, b"whole at once")
        assert os.fstat(fd).st_nlink == 0
        assert set(os.listdir(here)) == {"full", "made", "sparse"}
        with pytest.raises(FileExistsError):
            named(fd, here / "full")
        (here / "sparse").unlink()
        named(fd, here / "sparse")  # where the base had another
        os.link(here / "sparse", here / "again")
        os.write(fd, b"!")
    finally:
        os.close(fd)
    assert (here / "again").read_bytes() == b"whole at once!"
    found = (here / "sparse").stat()
    assert (found.st_nlink, found.st_mode & 0o777) == (2, 0o640)
    assert set(os.listdir(here)) == {"again", "full", "made", "sparse"}
    fd = os.open(here, os.O_TMPFILE | os.O_EXCL | os.O_RDWR)
    try:
        with pytest.raises(FileNotFoundError):
            named(fd, here / "not")
    finally:
        os.close(fd)


def test_inode_flags_are_not_told(here: Path) -> None:
    for command in (["lsattr", "full"], ["chattr", "+i", "full"]):
        assert subprocess.run(command, cwd=here, check=False, capture_output=True).returncode == 1
    (here / "full").write_bytes(b"as before")


def test_a_database_that_preallocates(here: Path) -> None:
    """SQLite with chunks, memory mapping and a write-ahead log."""
    for mode in ("wal", "delete", "truncate", "persist"):
        database = sqlite3.connect(here / f"{mode}.db")
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute(f"PRAGMA mmap_size={_SIZE}")
        database.execute("CREATE TABLE t (x)")
        with database:
            database.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(5000)))
        database.execute("DELETE FROM t WHERE x % 2")
        database.commit()
        database.execute("VACUUM")
        assert database.execute("SELECT count(*), sum(x) FROM t").fetchone() == (2500, 6247500)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        database.close()


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="no qemu-img")
def test_disk_images(here: Path) -> None:
    def run(*arguments: str) -> None:
        subprocess.run(["qemu-img", *arguments], cwd=here, check=True, capture_output=True)

    run("create", "-f", "raw", "-o", "preallocation=falloc", "falloc.raw", "4M")
    run("create", "-f", "qcow2", "-o", "preallocation=metadata", "image.qcow2", "16M")
    run("convert", "-O", "qcow2", "made", "made.qcow2")
    run("convert", "-O", "raw", "made.qcow2", "back")
    run("compare", "made", "back")
    assert held(here / "falloc.raw")[0] == 4 << 20
    assert held(here / "back") == (_SIZE, True)
