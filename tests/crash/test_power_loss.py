"""Power goes in the middle of a commit or an undo, at every flush that a disk is told.

Base, store and catalog lie on logged disks (``power``).  A commit worker does the work, the test
plays the daemon, with a real catalog in the daemon's order.  Then, for every cut: the disks are
mounted again, recovery runs as at the next start, and the base must be wholly as before or wholly
as after; as after if that had been acknowledged; nothing else may lie in it; and a second
recovery changes nothing.  That the tests see what is wrong is shown by engines that do not sync.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cases import everything, small
from committing import Bench, Ran, litter
from goexfs.protocol import Summary
from goexfsd import kernel
from goexfsd.catalog import CommitRow, SessionRow, open_catalog
from goexfsd.commit import stage
from goexfsd.worker import Root
from layering import Session
from manifests import Manifest, differences, manifest
from power import Cut, Disk, Disks

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

SIZE = 128 << 20
_SYNCFS = kernel.syncfs
ACKED = "acknowledged"


class Split(Session):
    """A session whose base and layer lie on two file systems."""

    @property
    def layer(self) -> bytes:
        return os.path.dirname(self.home) + b"/store/layer"

    @property
    def grave(self) -> bytes:
        return os.path.dirname(self.home) + b"/store/grave"

    @property
    def model(self) -> bytes:
        return os.path.dirname(self.home) + b"/model"


@dataclass
class Desk:
    """What the daemon does around a worker: the catalog's rows, in its order."""

    bench: Bench
    catalog: Path

    def open_session(self) -> None:
        catalog = open_catalog(self.catalog)
        row = SessionRow(
            *("s-test", "test", 0, 0, (), "/", "root", 0, (), None, 0, "open", 0, 0.0),
        )
        catalog.add_session(row)
        catalog.close()

    def row(self, name: str) -> CommitRow:
        return CommitRow(
            id=name,
            session="s-test",
            uid=0,
            message="",
            state="staging",
            partial=False,
            created=0.0,
            ended=None,
            applied=Summary(),
            source=0,
            roots=(str(self.bench.roots[0].path),),
        )

    def drive(self, name: str, work: Callable[[Callable[[], bool]], Ran]) -> Ran:
        """As ``decide.drive``, with ``work`` to run the worker."""
        catalog = open_catalog(self.catalog)
        try:
            row = self.row(name)
            (self.bench.before.parent / name).mkdir()
            sync(self.bench.before.parent)
            catalog.add_commit(row)
            ran = work(lambda: catalog.set_commit(row, state="intent") is not None)
            if ran.last["event"] == "applied" and ran.last["outcome"] == "forward":
                catalog.set_commit(catalog.commit(name) or row, state="done", bytes=1)
            else:
                catalog.drop_commit(name)
            return ran
        finally:
            catalog.close()

    def recover(self) -> list[str]:
        """As ``recovery``: what every commit that was cut off came to."""
        catalog = open_catalog(self.catalog)
        try:
            found = []
            for row in catalog.commits(state="staging") + catalog.commits(state="intent"):
                ran = self.bench.beside(row.id).recover(row.state)
                assert ran.last["event"] == "applied", (row.state, ran.messages)
                found.append(ran.last["outcome"])
                if ran.last["outcome"] == "forward":
                    catalog.set_commit(row, state="done", bytes=1)
                else:
                    catalog.drop_commit(row.id)
            return found
        finally:
            catalog.close()

    def done(self, name: str) -> bool:
        catalog = open_catalog(self.catalog)
        try:
            row = catalog.commit(name)
            return row is not None and row.state == "done"
        finally:
            catalog.close()


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        _SYNCFS(fd)
    finally:
        os.close(fd)


@dataclass
class Recorded:
    """A commit or an undo with everything that the disks were told while it ran."""

    disks: Disks
    desk: Desk
    name: str
    base: Path
    before: Manifest = field(default_factory=dict)
    after: Manifest = field(default_factory=dict)
    without: bytes | None = None
    """An entry that somebody else changed."""

    def states(self, *, torn: int) -> Iterator[tuple[Cut, str]]:
        """Every cut with what is wrong after it; "" if nothing is."""
        for cut in self.disks.cuts(torn=torn):
            with self.disks.mounted(cut):
                yield cut, self.wrong(ACKED in cut.marks)

    def wrong(self, acked: bool) -> str:
        try:
            self.desk.recover()
        except AssertionError as error:
            return f"recovery failed: {error}"
        now = manifest(self.base)
        if self.without is not None:
            del now[self.without]
        found = litter(str(self.base))
        done = self.desk.done(self.name)
        if found:
            return f"litter: {found}"
        if acked and not done:
            return "acknowledged and not done"
        wanted = self.after if done else self.before
        if differences(wanted, now):
            return f"neither before nor after (done: {done}): {differences(wanted, now)}"
        assert self.desk.recover() == []
        if done:
            self.desk.bench.beside(self.name).recover("intent")
        again = manifest(self.base)
        if self.without is not None:
            del again[self.without]
        if differences(now, again):
            return "a second recovery changed something"
        return ""


@contextmanager
def logged(home: Path, fstype: str) -> Iterator[tuple[Disks, Desk, Path]]:
    """A session over a base on ``fstype``, its layer and its commits on btrfs; not yet begun."""
    places = [Disk("base", fstype, home / "base"), Disk("store", "btrfs", home / "store")]
    disks = Disks(home, places, SIZE)
    with disks.running():
        top = home / "base" / "base"
        session = Split.over(home / "base", small)
        try:
            everything(session)
        finally:
            session.close()
        (home / "store" / "commits").mkdir()
        before = home / "store" / "commits" / "commit"
        bench = Bench(session.layer, [Root(0, "r", str(top))], before)
        desk = Desk(bench, home / "store" / "catalog.sqlite")
        desk.open_session()
        yield disks, desk, top


def recorded(home: Path, fstype: str, what: str) -> Recorded:
    with logged(home, fstype) as (disks, desk, base):
        if what == "undo":
            ran = desk.drive("commit", lambda go: desk.bench.commit(at_intent=go))
            assert ran.last["event"] == "applied", ran.messages
        found = Recorded(disks, desk, what, base, before=manifest(base))
        disks.begin()
        if what == "undo":
            ran = desk.drive("undo", lambda go: desk.bench.undo("undo", at_intent=go))
        else:
            ran = desk.drive("commit", lambda go: desk.bench.commit(at_intent=go))
        assert ran.last["event"] == "applied", ran.messages
        disks.mark(ACKED)
        disks.end()
        found.after = manifest(base)
        return found


@pytest.mark.parametrize("what", ["commit", "undo"])
@pytest.mark.parametrize("fstype", ["ext4", "btrfs"])
def test_power_goes_at_every_flush(tmp_path: Path, fstype: str, what: str) -> None:
    found = recorded(tmp_path, fstype, what)
    bad, count = [], 0
    for cut, wrong in found.states(torn=1):
        count += 1
        if wrong:
            bad.append(f"{cut.at} {cut.how} {sorted(cut.marks)}: {wrong}")
    print(f"{count} states")
    assert bad == []
    assert count > 60


@pytest.mark.parametrize("fstype", ["ext4", "btrfs"])
def test_power_goes_while_a_commit_is_given_up(
    tmp_path: Path, fstype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict in the last moment: once the refusal was told, nobody cleans up any more."""
    whole = stage.sync

    def sync_and_meddle(*arguments: Any) -> None:
        whole(*arguments)
        os.chmod(tmp_path / "base" / "base" / "mode", 0o600)

    with logged(tmp_path, fstype) as (disks, desk, base), monkeypatch.context() as meddling:
        meddling.setattr(stage, "sync", sync_and_meddle)
        found = Recorded(disks, desk, "commit", base, before=manifest(base))
        disks.begin()
        ran = desk.drive("commit", lambda go: desk.bench.commit(at_intent=go))
        assert ran.last["event"] == "conflicts"
        disks.mark("refused")
        disks.end()
    found.before.pop(b"mode")
    found.without = b"mode"
    assert [wrong for _, wrong in found.states(torn=2) if wrong] == []


@pytest.mark.parametrize("left_out", ["syncfs", "fsync"])
def test_an_engine_that_does_not_sync_is_found_out(
    tmp_path: Path, left_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without it, nobody knows what the tests above are worth."""
    with monkeypatch.context() as broken:
        module = kernel if left_out == "syncfs" else os
        broken.setattr(module, left_out, lambda fd: None)
        found = recorded(tmp_path, "ext4", "commit")
    kinds = Counter(wrong.partition(":")[0] for _, wrong in found.states(torn=1) if wrong)
    print(f"without {left_out}: {dict(kinds)}")
    assert kinds
