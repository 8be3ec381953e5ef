"""Which before-images are kept: by count, age and bytes, each user for themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from goexfs.protocol import Summary
from goexfsd.catalog import Catalog, CommitRow, RootRow, SessionRow, open_catalog
from goexfsd.config import UndoConfig
from goexfsd.decide import RootLocks
from goexfsd.retention import surplus, until

DAY = 86400.0
SESSION = SessionRow(
    "s-1", "w", 1000, 1000, (), "/", "u", 0, (RootRow("w", "/w", 2),), None, 0, "committed", 0, 1.0
)
NOW = 1000 * DAY
ROW = CommitRow("", "s-1", 1000, "", "done", False, NOW, None, Summary(), 1, ("/w",), bytes=10)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    opened = open_catalog(tmp_path / "catalog.sqlite")
    opened.add_session(SESSION)
    yield opened
    opened.close()


def add(catalog: Catalog, number: int, **fields: object) -> CommitRow:
    row = replace(ROW, id=f"c-{number}", created=NOW - number * DAY, **fields)  # type: ignore[arg-type]
    catalog.add_commit(row)
    return row


def dropped(catalog: Catalog, **config: float) -> list[str]:
    found = surplus(UndoConfig.model_validate(config), catalog, NOW)
    return sorted(row.id for row in found)


def test_by_count(catalog: Catalog) -> None:
    for number in range(5):
        add(catalog, number)
    add(catalog, 7, uid=1001)
    assert dropped(catalog, commits=3) == ["c-3", "c-4"]
    assert dropped(catalog, commits=0) == ["c-0", "c-1", "c-2", "c-3", "c-4", "c-7"]


def test_by_age(catalog: Catalog) -> None:
    for number in range(4):
        add(catalog, number)
    assert dropped(catalog, days=2) == ["c-2", "c-3"]
    row = replace(ROW, created=NOW)
    assert until(UndoConfig(days=2), row) == NOW + 2 * DAY
    assert until(UndoConfig(days=2), replace(row, dropped=1.0)) is None


def test_by_bytes_but_never_the_newest(catalog: Catalog) -> None:
    for number in range(4):
        add(catalog, number)
    assert dropped(catalog, bytes=25) == ["c-2", "c-3"]
    assert dropped(catalog, bytes=0) == ["c-1", "c-2", "c-3"]


def test_only_done_ones_and_once(catalog: Catalog) -> None:
    add(catalog, 1, state="intent")
    add(catalog, 2, state="staging")
    add(catalog, 3, dropped=1.0)
    assert dropped(catalog, commits=0) == []


def test_what_was_undone_keeps_nothing_but_undos_keep_their_records(catalog: Catalog) -> None:
    add(catalog, 3)
    add(catalog, 2, undoes="c-3")
    add(catalog, 1, undoes="c-2")
    assert dropped(catalog) == ["c-3"]


async def hold(locks: RootLocks) -> tuple[bool, bool, bool]:
    async with locks.exclusive(["/w/x"]):
        return locks.held(["/w"]), locks.held(["/w/x/y"]), locks.held(["/v"])


def test_what_is_held_is_known() -> None:
    import trio

    locks = RootLocks()
    assert trio.run(hold, locks) == (True, True, False)
    assert not locks.held(["/w"])
