"""Power goes after the store said that a session is there: its layer is, whole, though data that
others wrote to the same file system was never synced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from goexfsd.store import Store, StoreSettings, close_store, open_store
from power import Disk, Disks

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SECURED = "secure returned"
OWNER = (21001, 21001)


def opened(store: Store) -> None:
    store.create_layer("new", *OWNER, ["project"])
    store.secure("new")


def shown_in_a_snapshot(store: Store) -> None:
    """Which commits the transaction, the layer's with it; ``secure`` has nothing left to do."""
    store.create_layer("new", *OWNER, ["project"])
    top = os.open(store.path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert store.take_lowers("new", [top]) == "1"
    finally:
        os.close(top)
    store.secure("new")


def forked(store: Store) -> None:
    store.fork("old", 0, "new")
    store.secure("new")


def gone_back(store: Store) -> None:
    """To a checkpoint, which ``adopt`` says is the layer from now on."""
    (store.layer("old") / "upper" / "project" / "file").unlink()
    store.snapshot("old", 1)
    store.adopt("old", store.restore("old", 0))


@pytest.mark.parametrize("work", [opened, shown_in_a_snapshot, forked, gone_back])
def test_what_the_store_said_is_durable(tmp_path: Path, work: Callable[[Store], None]) -> None:
    top = tmp_path / "store"
    disks = Disks(tmp_path, [Disk("store", "btrfs", top)], 128 << 20)
    with disks.running():
        settings = StoreSettings(directory=top / "goexfs")
        (top / "goexfs").mkdir()
        store = open_store(settings, tmp_path)
        store.create_layer("old", *OWNER, ["project"])
        (store.layer("old") / "upper" / "project" / "file").write_text("kept")
        store.snapshot("old", 0)
        store.secure("old")
        disks.begin()
        (top / "of others").write_bytes(b"dirty" * 1_000_000)
        work(store)
        disks.mark(SECURED)
        disks.end()
        close_store(store)
    count = 0
    for cut in disks.cuts(torn=1):
        if SECURED in cut.marks:
            count += 1
            with disks.mounted(cut):
                sid = "old" if work is gone_back else "new"
                layer = top / "goexfs/sessions" / sid / "layer"
                assert sorted(each.name for each in layer.iterdir()) >= ["index", "origins"]
                assert (layer / "upper/project/file").exists() == (work in (forked, gone_back))
    assert count
