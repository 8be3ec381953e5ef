"""Power goes after a file was fsynced in the view: it is in the layer, by name and with its data.

Only what was flushed by then may be relied on, so each cut after the fsync returned is looked at,
whatever else of the later writes is there or not.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from power import Disk, Disks
from views import mounted

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SYNCED = "fsync returned"
DATA = b"precious\n" * 1000


def synced(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        os.write(fd, DATA)
        os.fsync(fd)
    finally:
        os.close(fd)


def created(top: Path) -> str:
    (top / "new").mkdir()
    synced(top / "new" / "file", os.O_CREAT | os.O_EXCL)
    return "new/file"


def copied_up(top: Path) -> str:
    synced(top / "dir" / "old", os.O_TRUNC)
    return "dir/old"


def replaced(top: Path) -> str:
    """As editors save: write aside, fsync, rename, fsync of the directory."""
    synced(top / "dir" / "aside", os.O_CREAT)
    (top / "dir" / "aside").rename(top / "dir" / "old")
    fd = os.open(top / "dir", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return "dir/old"


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path, [Disk("store", "btrfs", tmp_path / "store")], 128 << 20)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "base"
    (base / "dir").mkdir(parents=True)
    (base / "dir" / "old").write_bytes(b"old\n")
    return base


@pytest.mark.parametrize("work", [created, copied_up, replaced])
def test_what_was_fsynced_in_the_view_is_there(
    tmp_path: Path, disks: Disks, base: Path, work: Callable[[Path], str]
) -> None:
    with disks.running(), mounted(tmp_path, [base], tmp_path / "store") as view:
        disks.begin()
        name = work(view.top)
        disks.mark(SYNCED)
        (view.top / "later").write_bytes(b"not synced")
        disks.end()
        layer = view.layer
    count = 0
    for cut in disks.cuts(torn=2):
        if SYNCED in cut.marks:
            count += 1
            with disks.mounted(cut):
                assert (layer / "upper" / base.name / name).read_bytes() == DATA
                assert (layer / "origins").exists()
    assert count
