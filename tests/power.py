"""Power cuts: what disks may hold after one, rebuilt from a log of their writes and flushes.

``Disks`` makes loop devices over ``loggeddisk``, formats and mounts them.  ``cuts`` walks over
the log: at every flush of any disk, and at every mark, for each disk what was flushed before is
there, and of the writes since nothing, everything, or a random torn (4 KiB) and reordered part.
A cut is one moment for all disks.

The loop device fsyncs its file for a flush only when the writes before it are done, and the file
system of the test serves one request at a time: what the log has before a flush is flushed by it.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from goexfsd import kernel
from loggeddisk import FLUSH, MARK, RECORD

_BLOCK = 4096
_FORMAT = {
    "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=1", "-J", "size=4"],
    "btrfs": ["mkfs.btrfs", "-q", "-K", "-m", "single", "-d", "single"],
}


@dataclass(frozen=True, slots=True)
class Disk:
    name: str
    fstype: str
    at: Path
    """Where it is mounted."""
    options: str = "defaults"
    """How."""


@dataclass(frozen=True, slots=True)
class Record:
    kind: int
    disk: int
    offset: int
    data: bytes


@dataclass(slots=True)
class Cut:
    """The images of all disks after a power cut."""

    at: int
    """Index in the log."""
    how: str
    marks: frozenset[str]
    """Marks made before it."""
    images: list[Path]


@dataclass(slots=True)
class _Image:
    """One disk while the log is walked over."""

    path: Path
    fd: int
    since: list[Record] = field(default_factory=list)
    """Writes since its last flush."""

    def flush(self) -> None:
        for record in self.since:
            os.pwrite(self.fd, record.data, record.offset)
        self.since.clear()


class Disks:
    """Logged disks, mounted; and afterwards, what power cuts leave of them."""

    def __init__(self, home: Path, disks: Sequence[Disk], size: int) -> None:
        self._home, self._disks, self._size = home, disks, size
        self._log = home / "log"
        self._mount = home / "fuse"
        self._start = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everything formatted and mounted; the log counts from ``begin``."""
        self._mount.mkdir()
        names = [disk.name for disk in self._disks]
        program = Path(__file__).with_name("loggeddisk.py")
        command = [sys.executable, str(program), str(self._mount), str(self._log), str(self._size)]
        server = subprocess.Popen([*command, *names])
        try:
            _await_mount(self._mount, server)
            with contextlib.ExitStack() as stack:
                for disk in self._disks:
                    stack.enter_context(self._mounted(disk))
                yield
        finally:
            subprocess.run(["umount", str(self._mount)], check=True)
            server.wait(30)

    @contextmanager
    def _mounted(self, disk: Disk) -> Iterator[None]:
        argv = ["losetup", "--direct-io=on", "--show", "-f", str(self._mount / disk.name)]
        loop = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        try:
            subprocess.run([*_FORMAT[disk.fstype], loop], check=True, capture_output=True)
            disk.at.mkdir(exist_ok=True)
            subprocess.run(["mount", "-o", disk.options, loop, str(disk.at)], check=True)
            try:
                yield
            finally:
                subprocess.run(["umount", str(disk.at)], check=True)
        finally:
            subprocess.run(["losetup", "-d", loop], check=True)

    def begin(self) -> None:
        """What was done until now is not what is cut off."""
        for disk in self._disks:
            subprocess.run(["sync", "-f", str(disk.at)], check=True)
        self._start = self._log.stat().st_size

    def mark(self, name: str) -> None:
        """Note in the log that something has happened."""
        fd = os.open(self._mount / "mark", os.O_WRONLY)
        try:
            os.write(fd, name.encode())
        finally:
            os.close(fd)

    def end(self) -> None:
        """What is done from now on is not cut off either."""
        self.mark(_END)

    def cuts(self, *, torn: int, seed: int = 1) -> Iterator[Cut]:
        """Every moment at which power may go, each with ``torn`` random outcomes."""
        chance = random.Random(seed)
        with self._images() as images:
            marks: set[str] = set()
            for index, (record, counts) in enumerate(self._records()):
                if record.kind == MARK and record.data == _END.encode():
                    return
                if counts and record.kind in (FLUSH, MARK):
                    yield from self._outcomes(index, images, frozenset(marks), torn, chance)
                if record.kind == MARK:
                    marks.add(record.data.decode())
                    if counts:
                        yield from self._outcomes(index, images, frozenset(marks), 0, chance)
                elif record.kind == FLUSH:
                    images[record.disk].flush()
                else:
                    images[record.disk].since.append(record)

    def _records(self) -> Iterator[tuple[Record, bool]]:
        with open(self._log, "rb") as log:
            while head := log.read(RECORD.size):
                kind, disk, offset, length = RECORD.unpack(head)
                yield Record(kind, disk, offset, log.read(length)), log.tell() > self._start

    @contextmanager
    def _images(self) -> Iterator[list[_Image]]:
        images = []
        with _memory(self._home / "images") as place:
            try:
                for disk in self._disks:
                    path = place / disk.name
                    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                    os.ftruncate(fd, self._size)
                    images.append(_Image(path, fd))
                yield images
            finally:
                for image in images:
                    os.close(image.fd)

    def _outcomes(
        self,
        index: int,
        images: list[_Image],
        marks: frozenset[str],
        torn: int,
        chance: random.Random,
    ) -> Iterator[Cut]:
        pending = any(image.since for image in images)
        hows = ["flushed", "everything", *["torn"] * torn] if pending else ["flushed"]
        for how in hows:
            paths = [_outcome(image, how, chance) for image in images]
            yield Cut(index, how, marks, paths)
            for path in paths:
                path.unlink()

    @contextmanager
    def mounted(self, cut: Cut) -> Iterator[None]:
        """What a cut left, mounted where the disks were."""
        with contextlib.ExitStack() as stack:
            for disk, image in zip(self._disks, cut.images, strict=True):
                subprocess.run(["mount", "-o", "loop", str(image), str(disk.at)], check=True)
                stack.callback(subprocess.run, ["umount", str(disk.at)], check=True)
            yield


_END = "end of the log"


@contextmanager
def _memory(at: Path) -> Iterator[Path]:
    """A tmpfs; loop devices over its files may be let go a moment after they were unmounted."""
    at.mkdir()
    kernel.mount("none", str(at), "tmpfs", 0, "size=1g")
    try:
        yield at
    finally:
        deadline = time.monotonic() + 30
        while subprocess.run(["umount", str(at)], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{at} stays in use")
            time.sleep(0.05)
        at.rmdir()


def _await_mount(at: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not os.path.ismount(at):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the logging disk does not come up")
        time.sleep(0.01)


def _outcome(image: _Image, how: str, chance: random.Random) -> Path:
    """A copy of what was flushed, with a part of the writes since."""
    path = image.path.with_name(image.path.name + ".cut")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        _copy_sparse(image.fd, fd)
        if how != "flushed":
            share = 1.0 if how == "everything" else chance.choice((0.1, 0.5, 0.5, 0.9))
            for record in image.since:
                for start in range(0, len(record.data), _BLOCK):
                    if share == 1.0 or chance.random() < share:
                        piece = record.data[start : start + _BLOCK]
                        os.pwrite(fd, piece, record.offset + start)
    finally:
        os.close(fd)
    return path


def _copy_sparse(source: int, target: int) -> None:
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    at = 0
    while at < size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
        except OSError:
            return  # only a hole is left
        at = os.lseek(source, start, os.SEEK_HOLE)
        os.pwrite(target, os.pread(source, at - start, start), start)
