"""Random sessions over bases that others change meanwhile, and random decisions."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from committing import Bench, Ran, litter
from goexfsd.layer.changes import Views, open_views
from goexfsd.layer.tree import Entry, Tree
from goexfsd.worker import Root
from layering import Item, Session, manifest
from layerops import Op, base_trees, build, operations, perform
from manifests import differences
from manifests import manifest as full

MORE = settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
WAYS = st.sampled_from(["mine", "theirs", "merge"])


class Hand:
    """The user, who works on the base itself; the operations are those of a session."""

    def __init__(self, base: bytes) -> None:
        self.model = base
        self._held: list[int] = []

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)

    def _at(self, path: bytes) -> bytes:
        real = self.model + b"/" + path if path else self.model
        if os.path.lexists(real):  # its inode number shall not be used again
            self._held.append(os.open(real, os.O_PATH | os.O_NOFOLLOW))
        return real

    def write(self, path: bytes, data: bytes) -> None:
        Path(os.fsdecode(self._at(path))).write_bytes(data)

    def touch(self, path: bytes) -> None:
        os.utime(self._at(path), follow_symlinks=False)

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self._at(path))

    def symlink(self, path: bytes, target: bytes) -> None:
        os.symlink(target, self._at(path))

    def mkfifo(self, path: bytes) -> None:
        os.mkfifo(self._at(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def remove(self, path: bytes) -> None:
        real = self._at(path)
        if stat.S_ISDIR(os.lstat(real).st_mode):
            for name in os.listdir(real):
                self.remove(path + b"/" + name)
            os.rmdir(real)
        else:
            os.unlink(real)

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self._at(old), self._at(new), follow_symlinks=False)

    def rename(self, old: bytes, new: bytes) -> None:
        os.rename(self._at(old), self._at(new))

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: bytes, uid: int) -> None:
        os.chown(self._at(path), uid, -1, follow_symlinks=False)

    def utime(self, path: bytes, when: int) -> None:
        os.utime(self._at(path), ns=(when, when), follow_symlinks=False)

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)


@contextmanager
def worked_on(base: list[Op], ops: list[Op], edits: list[Op]) -> Iterator[Session]:
    """A session that did ``ops``, over a base on which a user did ``edits`` since."""
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        hand = Hand(session.base)
        try:
            perform(session, ops)
            perform(hand, edits)  # type: ignore[arg-type]
            yield session
        finally:
            hand.close()
            session.close()


def commit(session: Session, every: str, **resolve: str) -> Ran:
    home = Path(os.fsdecode(session.home))
    bench = Bench(session.layer, [Root(0, "r", os.fsdecode(session.base))], home / "before")
    ran = bench.commit(on_conflict=every, resolve=list(resolve.items()))
    note(f"{every}: {ran.messages}")
    assert litter(session.base) == []
    return ran


def undone(session: Session) -> None:
    home = Path(os.fsdecode(session.home))
    bench = Bench(session.layer, [Root(0, "r", os.fsdecode(session.base))], home / "before")
    ran = bench.undo("undo")
    assert ran.last["event"] == "applied", ran.messages


Shown = tuple[object, ...]


def view(session: Session) -> dict[bytes, Shown]:
    """What the layer shows over the base as it is now."""
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    top = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    try:
        with open_views(None, layer, [Root(0, "r", "")], [top]) as views:
            return shown_by(views[0])
    finally:
        os.close(layer)
        os.close(top)


def shown_by(views: Views) -> dict[bytes, Shown]:
    tree = views.new
    return {entry.path: _entry(tree, entry) for entry in [tree.top, *tree.walk(tree.top)]}


def _entry(tree: Tree, entry: Entry) -> Shown:
    data = b""
    if stat.S_ISREG(entry.st.st_mode):
        fd = tree.open(entry)
        if fd is not None:
            with os.fdopen(fd, "rb") as file:
                data = file.read()
    elif stat.S_ISLNK(entry.st.st_mode):
        data = tree.target(entry)
    st = entry.st
    xattrs = tuple(sorted(tree.xattrs(entry).items()))
    return _shown(st.st_mode, (st.st_uid, st.st_gid), xattrs, data, st.st_rdev)


def _shown(mode: int, owner: object, xattrs: object, data: bytes, rdev: int) -> Shown:
    bits = 0 if stat.S_ISLNK(mode) else stat.S_IMODE(mode)
    return stat.S_IFMT(mode), bits, owner, xattrs, data, rdev


def of_base(tree: dict[bytes, Item]) -> dict[bytes, Shown]:
    return {
        path: _shown(item.kind | item.mode, item.owner, item.xattrs, item.data, item.rdev)
        for path, item in tree.items()
    }


@MORE
@given(base=base_trees(), ops=operations(), edits=operations())
def test_mine_makes_the_base_what_the_view_shows(
    base: list[Op], ops: list[Op], edits: list[Op]
) -> None:
    # A file to which the user makes another name shows the session's version under both: the
    # view, which knows only the copy, would show them apart.
    edits = [edit for edit in edits if edit[0] != "link"]
    with worked_on(base, ops, edits) as session:
        expected, before = view(session), full(session.base)
        ran = commit(session, "mine")
        event(f"{ran.last['event']} {ran.get('resolved') is not None}")
        assert ran.last["event"] in ("applied", "nothing"), ran.messages
        assert of_base(manifest(session.base)) == expected
        if ran.last["event"] == "applied":
            undone(session)
            assert differences(before, full(session.base)) == []


@MORE
@given(base=base_trees(), ops=operations(), edits=operations())
def test_theirs_keeps_all_that_the_user_did(base: list[Op], ops: list[Op], edits: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as home:
        session = Session.over(Path(home), build(base))
        hand = Hand(session.base)
        try:
            perform(session, ops)
            first = manifest(session.base)
            perform(hand, edits)  # type: ignore[arg-type]
            before, now = full(session.base), manifest(session.base)
            ran = commit(session, "theirs")
            assert ran.last["event"] in ("applied", "nothing"), ran.messages
            after = {(item.ino, _bytes(item)) for item in manifest(session.base).values()}
            for path, item in now.items():
                if item != first.get(path) and not stat.S_ISDIR(item.kind):
                    assert (item.ino, _bytes(item)) in after, path
            if ran.last["event"] == "applied":
                undone(session)
                assert differences(before, full(session.base)) == []
        finally:
            hand.close()
            session.close()


def _bytes(item: Item) -> Shown:
    return item.kind, item.mode, item.owner, item.data


@MORE
@given(
    base=base_trees(),
    ops=operations(),
    edits=operations(),
    every=WAYS,
    picks=st.lists(WAYS, max_size=4),
)
def test_any_decisions_are_undone(
    base: list[Op], ops: list[Op], edits: list[Op], every: str, picks: list[str]
) -> None:
    with worked_on(base, ops, edits) as session:
        before = full(session.base)
        refused = commit(session, "abort")
        found: list[dict[str, Any]] = refused.last.get("conflicts", [])
        if refused.last["event"] == "applied":
            return
        rules = [(0, _raw(each["path"]), way) for each, way in zip(found, picks, strict=False)]
        home = Path(os.fsdecode(session.home))
        bench = Bench(session.layer, [Root(0, "r", os.fsdecode(session.base))], home / "before")
        ran = bench.commit(on_conflict=every, resolve=rules)
        note(f"{every} {rules}: {ran.messages}")
        event(f"{every} {ran.last['event']}")
        if ran.last["event"] == "applied":
            undone(session)
        elif ran.last["event"] == "error":
            assert ran.last["error"]["data"]["code"] == "usage"
        assert differences(before, full(session.base)) == []


def _raw(path: str) -> bytes:
    from goexfs.names import from_wire

    return b"" if path == "." else from_wire(path)
