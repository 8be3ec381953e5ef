"""First versions and reads kept in a layer: exact, bounded, and whole however they end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfsd.layer import originals, reads
from goexfsd.layer.originals import Keeper
from goexfsd.layer.origins import Identity
from goexfsd.layer.reads import ReadLog


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def keep(layer: Path, *files: Path) -> list[Identity]:
    with opened(layer) as fd:
        keeper = Keeper(fd)
        found = []
        for file in files:
            with opened(file) as src:
                identity = Identity.of(os.fstat(src), os.fstat(src).st_dev)
                keeper.keep(0, identity, src)
                found.append(identity)
        keeper.close()
    return found


def kept(layer: Path, identity: Identity) -> bytes | None:
    with opened(layer) as fd:
        found = originals.read(fd)
        try:
            return found.get(0, identity)
        finally:
            found.close()


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    (tmp_path / "layer").mkdir()
    return tmp_path / "layer"


def files(top: Path, *contents: bytes) -> list[Path]:
    paths = [top / f"file{number}" for number in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    return paths


def test_what_was_kept_is_found_by_its_version(layer: Path, tmp_path: Path) -> None:
    one, two, empty = files(tmp_path, b"one\n", b"\0two" * 1000, b"")
    was = keep(layer, one, two, empty)
    assert [kept(layer, each) for each in was] == [b"one\n", b"\0two" * 1000, b""]
    one.write_bytes(b"later\n")
    (now,) = keep(layer, one)
    assert (kept(layer, was[0]), kept(layer, now)) == (b"one\n", b"later\n")


def test_large_files_are_not(layer: Path, tmp_path: Path) -> None:
    (big,) = files(tmp_path, b"x" * (originals.LIMIT + 1))
    assert kept(layer, keep(layer, big)[0]) is None
    assert os.listdir(layer) == []


def test_a_layer_holds_so_much_of_them(
    layer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals, "TOTAL", 3000)
    was = keep(layer, *files(tmp_path, b"a" * 2000, b"b" * 2000, b"c" * 100))
    assert [kept(layer, each) is not None for each in was] == [True, False, True]
    assert (layer / "originals").stat().st_size <= 3000


@pytest.mark.parametrize("cut", [1, 10, 44, 45, 60])
def test_a_torn_end_is_cut_off(layer: Path, tmp_path: Path, cut: int) -> None:
    one, two, three = files(tmp_path, b"1" * 100, b"2" * 100, b"3" * 100)
    was = keep(layer, one, two)
    log = layer / "originals"
    os.truncate(log, log.stat().st_size - cut)
    assert [kept(layer, each) for each in was] == [b"1" * 100, None]
    was += keep(layer, three, two)
    assert [kept(layer, each) for each in was[:3]] == [b"1" * 100, b"2" * 100, b"3" * 100]


def test_damage_is_noticed(layer: Path, tmp_path: Path) -> None:
    was = keep(layer, *files(tmp_path, b"1" * 100, b"2" * 100))
    log = layer / "originals"
    data = bytearray(log.read_bytes())
    data[-1] ^= 1
    log.write_bytes(data)
    assert [kept(layer, each) for each in was] == [b"1" * 100, None]


PATHS = st.binary(min_size=1, max_size=30)


@given(st.lists(st.tuples(st.integers(1, 5), PATHS), max_size=20), st.integers(1, 4))
def test_reads_are_found_first_version_first(notes: list[tuple[int, bytes]], runs: int) -> None:
    with tempfile.TemporaryDirectory() as top, opened(Path(top)) as fd:
        st_now = os.fstat(fd)
        for run in range(runs):
            log = ReadLog(fd, [st_now.st_dev])
            for number, path in notes[run::runs]:
                log.note((0, 1, number), path, st_now)
            log.close()
        found, complete = reads.load(fd)
        assert complete
        assert found.keys() == {(0, path) for _, path in notes}


def test_more_reads_than_are_noted_is_told(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "TOTAL", 2000)
    monkeypatch.setattr(reads, "_PIECE", 500)
    with opened(layer) as fd:
        log = ReadLog(fd, [os.fstat(fd).st_dev])
        for number in range(100):
            log.note((0, 1, number), b"file%d" % number, os.fstat(fd))
        log.close()
        found, complete = reads.load(fd)
        assert not complete
        assert 10 < len(found) < 100
        reads.forget(fd, lambda place, version: place[1] != b"file1")
        fewer, complete = reads.load(fd)
        assert (len(fewer), complete) == (len(found) - 1, False)
    assert (layer / "reads").stat().st_size < 4000
