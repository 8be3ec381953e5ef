"""The bytes of one file under mixed access: write, read, truncate, mmap, reopen, as fsx does."""

from __future__ import annotations

import mmap
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from views import View, mounted, store

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]

_LIMIT = 200_000
_BASE = bytes(range(256)) * 300


@pytest.fixture(scope="module")
def view() -> Iterator[View]:
    directory = Path(tempfile.mkdtemp(prefix="bytes-"))
    root = directory / "root"
    root.mkdir()
    for seed in range(100):
        (root / str(seed)).write_bytes(_BASE)
    with store(directory) as at, mounted(directory, [root], at) as mounted_view:
        yield mounted_view
    assert all((root / str(seed)).read_bytes() == _BASE for seed in range(100))
    shutil.rmtree(directory)


class File:
    """The file in the view and what it must hold."""

    def __init__(self, path: Path, dice: random.Random) -> None:
        self.path = path
        self.dice = dice
        self.model = bytearray(_BASE)
        self.fd = os.open(path, os.O_RDWR)

    def span(self) -> tuple[int, int]:
        start = self.dice.randrange(_LIMIT)
        return start, min(_LIMIT, start + self.dice.randrange(1, 20_000))

    def write(self) -> None:
        start, end = self.span()
        data = self.dice.randbytes(end - start)
        os.pwrite(self.fd, data, start)
        self.model.extend(bytes(max(0, start - len(self.model))))
        self.model[start:end] = data

    def append(self) -> None:
        data = self.dice.randbytes(100)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        self.model += data

    def read(self) -> None:
        start, end = self.span()
        assert os.pread(self.fd, end - start, start) == self.model[start:end]

    def truncate(self) -> None:
        size = self.dice.randrange(_LIMIT)
        os.ftruncate(self.fd, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def map_read(self) -> None:
        if self.model:
            with mmap.mmap(self.fd, 0, prot=mmap.PROT_READ) as mapped:
                assert mapped[:] == self.model

    def map_write(self) -> None:
        start, end = self.span()
        end = min(end, len(self.model))
        if start >= end:
            return
        data = self.dice.randbytes(end - start)
        with mmap.mmap(self.fd, 0) as mapped:
            mapped[start:end] = data
            if self.dice.random() < 0.5:
                mapped.flush()
        self.model[start:end] = data

    def reopen(self) -> None:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)

    def check(self) -> None:
        assert os.fstat(self.fd).st_size == len(self.model)
        assert self.path.read_bytes() == self.model


@pytest.mark.parametrize("seed", range(12))
def test_bytes_are_what_was_written(view: View, seed: int) -> None:
    dice = random.Random(seed)
    file = File(view.top / str(seed), dice)
    acts = [
        file.write,
        file.append,
        file.read,
        file.truncate,
        file.map_read,
        file.map_write,
        file.reopen,
        file.check,
    ]
    try:
        for _ in range(150):
            dice.choice(acts)()
        file.check()
    finally:
        os.close(file.fd)
