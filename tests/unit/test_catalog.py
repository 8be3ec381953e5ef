"""The catalog: what was written is there after reopening; damage is told, not hidden."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from goexfs.errors import StoreFailed
from goexfs.protocol import CheckpointInfo, Summary
from goexfsd.catalog import (
    Catalog,
    CommitRow,
    RootRow,
    SessionRow,
    StepRow,
    SwitchRow,
    open_catalog,
)

SESSION = SessionRow(
    id="s-1",
    name="work",
    uid=1000,
    gid=1000,
    groups=(1000, 27),
    home="/home/u",
    user="u",
    slot=0,
    roots=(RootRow("work", "/home/u/work", 42),),
    at=None,
    at_ino=0,
    state="opening",
    checkpoint=-1,
    created=1.0,
)
STEP = StepRow("s-1", 1, ("true",), "running", None, False, 2.0, None, 0, None, None)
COMMIT = CommitRow("c-1", "s-1", 1000, "m", "staging", False, 3.0, None, Summary(), 1, ("/w",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def catalog(path: Path) -> Iterator[Catalog]:
    opened = open_catalog(path)
    opened.add_session(SESSION)
    yield opened
    opened.close()


def test_everything_survives_reopening(catalog: Catalog, path: Path) -> None:
    row = catalog.set_session(SESSION, state="open")
    info = CheckpointInfo(number=0, parent=None, step=None, label=None, created=time.time())
    row = catalog.add_checkpoint(row, info)
    step = replace(STEP, state="done", status=3, summary=Summary(created=2), checkpoint=1)
    catalog.put_step(STEP)
    catalog.put_step(step)
    catalog.add_commit(COMMIT)
    commit = catalog.set_commit(COMMIT, state="done", applied=Summary(deleted=1), ended=4.0)
    again = open_catalog(path)
    try:
        assert again.session("s-1") == row
        assert again.sessions(frozenset(("open",))) == [row]
        assert again.checkpoints("s-1") == [info]
        assert again.steps("s-1") == [step]
        assert again.commits(session="s-1", state="done") == [commit]
        assert (again.next_checkpoint("s-1"), again.next_step("s-1")) == (1, 2)
    finally:
        again.close()


def test_numbers_begin_where_they_should(catalog: Catalog) -> None:
    assert (catalog.next_checkpoint("s-1"), catalog.next_step("s-1")) == (0, 1)


def test_running_steps_are_interrupted_once(catalog: Catalog) -> None:
    catalog.put_step(STEP)
    assert catalog.interrupt_steps() == 1
    assert catalog.interrupt_steps() == 0
    found = catalog.step("s-1", 1)
    assert found is not None
    assert found.state == "interrupted"


def test_a_failed_write_leaves_nothing_behind(catalog: Catalog) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        catalog.add_session(SESSION)
    catalog.set_session(SESSION, state="open")


def test_what_is_written_together_is_all_there_or_not(catalog: Catalog) -> None:
    with catalog.together():
        catalog.set_session(SESSION, state="committing")
        catalog.add_commit(COMMIT)

    def half() -> None:
        with catalog.together():
            catalog.set_session(SESSION, state="open")
            catalog.drop_commit(COMMIT.id)
            catalog.add_session(SESSION)  # it is there already

    with pytest.raises(sqlite3.IntegrityError):
        half()
    assert catalog.commits() == [COMMIT]
    found = catalog.session(SESSION.id)
    assert found is not None
    assert found.state == "committing"


def test_damage_is_told(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreFailed, match="cannot be used"):
        open_catalog(path)


def test_a_later_schema_is_refused(catalog: Catalog, path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value='99' WHERE key='schema'")
    db.close()
    with pytest.raises(StoreFailed, match="schema 99"):
        open_catalog(path)


_SINCE = {
    1: [("commits", "undoes"), ("commits", "bytes"), ("commits", "dropped")],
    2: [("sessions", "forked"), ("sessions", "forked_at")],
    3: [("sessions", "rules"), ("sessions", "kernel")],
    4: [("commits", "digest")],
}
"""Schema → the columns that came after it."""


@pytest.mark.parametrize("schema", _SINCE)
def test_an_older_catalog_is_brought_along(catalog: Catalog, path: Path, schema: int) -> None:
    catalog.add_commit(COMMIT)
    with sqlite3.connect(path) as db:
        for table, column in (each for at in _SINCE if at >= schema for each in _SINCE[at]):
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        db.execute(f"UPDATE meta SET value='{schema}' WHERE key='schema'")
    db.close()
    for _ in range(2):
        again = open_catalog(path)
        try:
            assert again.commits() == [COMMIT]
            assert again.sessions() == [SESSION]
        finally:
            again.close()


def test_marks(catalog: Catalog, path: Path) -> None:
    assert catalog.mark("head") is None
    catalog.put_mark("head", (1, "a"))
    catalog.put_mark("head", (2, "b"))
    again = open_catalog(path)
    assert again.mark("head") == (2, "b")
    again.close()


def test_a_fork_is_remembered(catalog: Catalog, path: Path) -> None:
    fork = replace(SESSION, id="s-2", forked="s-1", forked_at=7)
    catalog.add_session(fork)
    assert catalog.session("s-2") == fork
    info = CheckpointInfo(number=0, parent=None, step=None, label=None, created=1.0)
    catalog.add_checkpoint(fork, info)
    assert (catalog.has_checkpoint("s-2", 0), catalog.has_checkpoint("s-2", 1)) == (True, False)
    assert (catalog.counts("s-2"), catalog.counts("s-1")) == ((1, 0), (0, 0))


def test_what_was_undone_by_what(catalog: Catalog) -> None:
    catalog.add_commit(replace(COMMIT, state="done"))
    catalog.add_commit(replace(COMMIT, id="c-2", state="intent", undoes="c-1"))
    assert catalog.undone() == {}
    assert catalog.unfinished("s-1") == []
    catalog.set_commit(replace(COMMIT, id="c-2", undoes="c-1"), state="done")
    assert catalog.undone() == {"c-1": "c-2"}


def test_what_took_which_ones_place(catalog: Catalog) -> None:
    blank = SwitchRow("1:aa", "work", ".goexfs-stage-c-1", "1:bb", 7, "uuid", 100)
    for number, done in enumerate((True, True, False)):
        row = replace(COMMIT, id=f"c-{number}", state="done" if done else "intent")
        catalog.add_commit(row)
        catalog.put_switch(row.id, replace(blank, old_fsid=100 + number))
        made = replace(blank, old_fsid=100 + number, new_fsid=101 + number, new_number=8)
        assert catalog.put_switch(row.id, made) == catalog.switch(row.id) == made
    assert catalog.heirs() == {100: 102, 101: 102}
    catalog.drop_commit("c-2")
    assert catalog.switch("c-2") is None
    assert catalog.switch("c-9") is None
