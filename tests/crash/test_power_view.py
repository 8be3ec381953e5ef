"""Power goes after a file was fsynced in the view: it is in the layer, by name and with its data.
And whatever of the unsynced is in the layer, its record is there too.

Only what was flushed by then may be relied on, so each cut after the fsync returned is looked at,
whatever else of the later writes is there or not.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from goexfsd.layer.origins import load
from goexfsd.store.image import OPTIONS
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


_START_SYNC, _WAIT_SYNC = 0x80089418, 0x40089416


def end_transaction(store: Path) -> None:
    """Have btrfs end its transaction, as it does by itself every half minute: no sync of data."""
    fd = os.open(store, os.O_RDONLY)
    try:
        number = fcntl.ioctl(fd, _START_SYNC, bytes(8))
        fcntl.ioctl(fd, _WAIT_SYNC, number)
    finally:
        os.close(fd)


def unrecorded(layer: Path, base: Path) -> list[str]:
    """Entries of the upper that stand where the base has one, and of which the log says nothing."""
    fd = os.open(layer, os.O_RDONLY)
    try:
        told = {os.fsdecode(record.path) for record in load(fd, b"origins")[0]}
    finally:
        os.close(fd)
    there = os.listdir(layer / "upper" / base.name)
    return [name for name in there if name not in told and (base / name).exists()]


@pytest.mark.parametrize(("options", "whole"), [(OPTIONS, True), ("defaults", False)])
def test_what_is_in_the_layer_is_in_its_log(tmp_path: Path, options: str, whole: bool) -> None:
    """Nothing is synced; with how the store is mounted, and (it would not be) as by default."""
    base = tmp_path / "base"
    base.mkdir()
    for number in range(4):
        (base / f"f{number}").write_text("old")
    store = Disk("store", "btrfs", tmp_path / "store", options)
    disks = Disks(tmp_path, [store], 128 << 20)
    with disks.running(), mounted(tmp_path, [base], store.at) as view:
        disks.begin()
        for number in range(0, 4, 2):
            (view.top / f"f{number}").write_text("new")
            (view.top / f"f{number + 1}").unlink()
            end_transaction(store.at)
        disks.end()
        layer = view.layer
    missing, seen = [], 0
    for cut in disks.cuts(torn=1):
        with disks.mounted(cut):
            missing += unrecorded(layer, base)
            seen = max(seen, len(os.listdir(layer / "upper" / base.name)))
    assert seen == 4
    assert bool(missing) != whole, missing
