"""The records of a commit on disk: what was written is what is read, in rows of any number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from goexfs.errors import StoreFailed
from goexfsd.commit import intent
from goexfsd.commit.faithful import Meta
from goexfsd.commit.plan import Attrs, Expect, Final, Mark, Node, Op, Plan, RootMark, parse
from goexfsd.layer.origins import Identity

ODD = bytes(each for each in range(1, 256) if each != ord("/"))
META = Meta(0o100644, 1, 2, 0, 3, 4, 5, {b"user." + ODD[128:]: ODD, b"user.empty": b""})
LINK = Meta(0o120777, 1, 2, 0, 3, -4, 5, {}, target=ODD)
WAS = Identity(0, 7, 0o100644, 1, 1000, 1000, 0, 12, 2**62, 2**62 + 1)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def plan(count: int) -> Plan:
    made = Plan("c-1", [RootMark(0, "r", 2, 3)], True, stages=[1], fills={4: 5})
    made.nodes = [Node(0, 0, "dir", 2)]
    for number in range(1, count):
        slots = [(0, ODD[:200]), (1, b"n%d" % number)]
        made.nodes.append(Node(number, 0, "file", number, slots=slots, new=number % 2 == 0))
    made.nodes[1].was, made.nodes[2].stands = WAS, WAS
    made.ops = [Op("swap", number, 0, 1, 2) for number in range(count)]
    made.attrs = [Attrs(META, LINK, times=True)]
    made.finals = [Final(0, None, 1, 2, 3, 4, 5, kept=False)]
    made.marks = [Mark("renamed", 0, ODD, None, "file", 9), Mark("deleted", 0, b"", ODD, "dir", 0)]
    made.taken = {(0, number): Expect(1, 2, 3, saved=False) for number in range(count)}
    return made


@pytest.mark.parametrize("count", [3, 1000, 1001])
def test_a_plan_is_read_as_it_was_written(place: int, count: int) -> None:
    written = plan(count)
    intent.write(place, intent.PLAN, written.lines(), durable=False)
    lines = intent.read(place, intent.PLAN)
    assert lines is not None
    assert parse(lines) == written


def test_rows(place: int) -> None:
    assert list(intent.rows("now", [])) == []
    intent.write(place, b"some", [{"head": 1}, *intent.rows("now", range(2500))])
    lines = intent.read(place, b"some")
    assert lines is not None
    assert list(intent.unrow(lines, "now")) == list(range(2500))
    assert len(lines) == 4


def test_a_damaged_row_is_refused(place: int, tmp_path: Path) -> None:
    intent.write(place, b"some", intent.rows("now", range(2500)))
    path = tmp_path / "some"
    path.write_bytes(path.read_bytes().replace(b"1234", b"1235", 1))
    with pytest.raises(StoreFailed, match="is damaged"):
        intent.read(place, b"some")
