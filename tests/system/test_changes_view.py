"""The change list of real views: random operations in the mount, and on a plain copy beside it."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import btrfsutil
import pytest
from hypothesis import HealthCheck, given, note, settings

import views
from goexfs import protocol
from goexfsd.layer.changes import Change, differences, open_views
from goexfsd.layer.jobs import changes
from goexfsd.layer.selection import Selection
from goexfsd.worker import Owner, Root, WorkerSpec, context, decode_message, start_worker
from layercheck import Check
from layering import Item, Session, copy_tree, manifest
from layerops import Op, base_trees, build, operations, perform
from sincecheck import Kept


class Live(Session):
    """The operations of ``Session``, in a mounted view."""

    mount: bytes

    def _both(self, change: Callable[[bytes], object]) -> None:
        change(self.model)
        change(self.mount)

    def write(self, path: bytes, data: bytes) -> None:
        def change(top: bytes) -> None:
            fd = os.open(top + b"/" + path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)

        self._both(change)

    def touch(self, path: bytes) -> None:
        fd = os.open(self.mount + b"/" + path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        os.close(fd)

    def mkdir(self, path: bytes) -> None:
        self._both(lambda top: os.mkdir(top + b"/" + path))

    def symlink(self, path: bytes, target: bytes) -> None:
        self._both(lambda top: os.symlink(target, top + b"/" + path))

    def mkfifo(self, path: bytes) -> None:
        self._both(lambda top: os.mkfifo(top + b"/" + path))

    def unlink(self, path: bytes) -> None:
        """Every second name is that of an open file, which is written to afterwards."""

        def change(top: bytes) -> None:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
            regular = stat.S_ISREG(os.lstat(top + b"/" + path).st_mode)
            if not regular or len(path) % 2:
                os.unlink(top + b"/" + path)
                return
            fd = os.open(top + b"/" + path, flags)
            try:
                os.unlink(top + b"/" + path)
                os.pwrite(fd, b"later", 2)
            finally:
                os.close(fd)

        self._both(change)

    def rmdir(self, path: bytes) -> None:
        self._both(lambda top: os.rmdir(top + b"/" + path))

    def link(self, old: bytes, new: bytes) -> None:
        self._both(lambda top: os.link(top + b"/" + old, top + b"/" + new, follow_symlinks=False))

    def rename(self, old: bytes, new: bytes) -> None:
        self._both(lambda top: os.rename(top + b"/" + old, top + b"/" + new))

    def chmod(self, path: bytes, mode: int) -> None:
        self._both(lambda top: os.chmod(top + b"/" + path, mode))

    def chown(self, path: bytes, uid: int) -> None:
        self._both(lambda top: os.chown(top + b"/" + path, uid, -1, follow_symlinks=False))

    def utime(self, path: bytes, when: int) -> None:
        self.timed.add(os.lstat(self.model + b"/" + path).st_ino)
        times = (when, when)
        self._both(lambda top: os.utime(top + b"/" + path, ns=times, follow_symlinks=False))

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self._both(lambda top: os.setxattr(top + b"/" + path, name, value, follow_symlinks=False))


def between(old: Path | None, new: Path | None, base: bytes) -> list[Change]:
    one, other = (os.open(at, os.O_RDONLY) if at else None for at in (old, new))
    base_fd = os.open(base, os.O_PATH)
    try:
        with open_views(one, other, [Root(0, "base", "")], [base_fd]) as pair:
            return [each.change for each in differences(pair)]
    finally:
        for fd in (one, other, base_fd):
            if fd is not None:
                os.close(fd)


@pytest.fixture(scope="module")
def workshop(temporary: Path) -> Iterator[Path]:
    """One btrfs for all examples: mounting one takes longer than an example."""
    directory = Path(tempfile.mkdtemp(prefix="changes-", dir=temporary))
    with views.store(directory) as at:
        yield at
    directory.rmdir()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(base=base_trees(), first=operations(), second=operations())
def test_random_work_in_a_view(
    workshop: Path, base: list[Op], first: list[Op], second: list[Op]
) -> None:
    """After each half: layer against base; and between the two."""
    home = Path(tempfile.mkdtemp(dir=workshop))
    (home / "base").mkdir()
    build(base)(os.fsencode(home / "base"))
    session = Live(os.fsencode(home))
    session.inodes = copy_tree(session.base, session.model)
    states: list[dict[bytes, Item]] = [manifest(session.base)]
    snapshots: list[Path | None] = [None]
    timed: list[set[int]] = [set()]
    with views.mounted(home, [home / "base"], workshop) as view:
        session.mount = os.fsencode(view.top)
        for ops in (first, second):
            perform(session, ops)
            view.command("sync")
            snapshots.append(home / f"ckpt-{len(snapshots)}")
            btrfsutil.create_snapshot(str(view.layer), str(snapshots[-1]), read_only=True)
            states.append(manifest(session.model))
            timed.append(set(session.timed))
            assert shape(manifest(session.mount)) == shape(states[-1])
    for old, new in ((0, 1), (0, 2), (1, 2), (2, 1), (1, 0), (1, 1)):
        found = between(snapshots[old], snapshots[new], session.base)
        for change in found:
            note(f"{old}..{new}: {change.kind} {change.old_path!r} {change.path!r}")
        inodes, origins = Inodes(session, old, new), session.inodes.values()
        times = timed[new], timed[old]
        Check(states[old], states[new], found, inodes, *times, origins).run()
    _, *kept = snapshots
    same = Kept(view.layer, [Root(0, "base", "")], home / "base", [path for path in kept if path])
    same.check()
    assert same.told
    for snapshot in snapshots[1:]:
        btrfsutil.delete_subvolume(str(snapshot))


class Inodes(dict[int, int]):
    """Model inodes are the same over time; the base's are other numbers."""

    def __init__(self, session: Session, old: int, new: int) -> None:
        if old == 0:
            super().__init__(session.inodes)
        elif new == 0:
            super().__init__({base: model for model, base in session.inodes.items()})
        else:
            self.get = lambda ino, default=None: ino  # type: ignore[method-assign]


def shape(items: dict[bytes, Item]) -> dict[bytes, tuple[object, ...]]:
    """What must be equal in the view and in the model, times aside."""
    return {
        path: (item.kind, item.mode, item.owner, item.xattrs, item.data, item.links)
        for path, item in items.items()
    }


def run_changes(spec: WorkerSpec) -> list[dict[str, Any]]:
    """All messages of a worker that lists changes."""
    process, conn = start_worker(context(), changes, spec)
    try:
        messages = [decode_message(conn.recv_bytes())]
        while messages[-1]["event"] not in ("done", "error"):
            messages.append(decode_message(conn.recv_bytes()))
        process.join(10)
        return messages
    finally:
        process.close()
        conn.close()


def test_worker_lists_changes_as_the_owner(workshop: Path) -> None:
    home = Path(tempfile.mkdtemp(dir=workshop))
    for path in (workshop.parent, home):
        path.chmod(0o755)
    owner = Owner(21001, 21001, ())
    base = home / "base"
    (base / "sub").mkdir(parents=True)
    (base / "a").write_text("one\n")
    (base / "sub" / "b").write_text("two\n")
    for path in (base, *base.rglob("*")):
        os.chown(path, 21001, 21001)
    with views.mounted(home, [base], workshop, owner) as view:
        (view.top / "a").write_text("1\n")
        (view.top / "sub" / "b").unlink()
        (view.top / os.fsdecode(b"new\xff")).write_bytes(b"\0")
        os.sync()
        view.command("sync")
        layer = view.layer
    root = Root(0, "base", str(base))
    options = {"select": Selection.of([(0, b"a"), (0, b"new\xff")]), "patch": True}
    messages = run_changes(WorkerSpec(owner, (root,), {"to": str(layer)}, options))
    assert messages[-1]["summary"] == {"modified": 1, "created": 1}
    listed = [each for message in messages for each in message.get("changes", ())]
    parsed = [protocol.Change.model_validate(each) for each in listed]
    assert [(c.kind, c.root, c.path) for c in parsed] == [
        ("modified", "base", "a"),
        ("created", "base", "base64:bmV3/w=="),
    ]
    text = b"".join(message["data"] for message in messages if message["event"] == "chunk")
    assert b"-one\n+1\n" in text
    assert b'"b/new\\377"' in text
    everything = run_changes(WorkerSpec(owner, (root,), {"to": str(layer)}))
    assert everything[-1]["summary"] == {"deleted": 1, "modified": 1, "created": 1}
    nothing = run_changes(WorkerSpec(owner, (root,), {"from": str(layer), "to": str(layer)}))
    assert nothing[-1]["summary"] == {}


def test_file_that_its_owner_may_not_read_is_listed_all_the_same(workshop: Path) -> None:
    home = Path(tempfile.mkdtemp(dir=workshop))
    for path in (workshop.parent, home):
        path.chmod(0o755)
    owner = Owner(21001, 21001, ())
    base = home / "base"
    base.mkdir()
    (base / "a").write_text("one\n")
    for path in (base, base / "a"):
        os.chown(path, 21001, 21001)
    with views.mounted(home, [base], workshop, owner) as view:
        (view.top / "a").write_text("two\n")
        (view.top / "a").chmod(0o200)
        view.command("sync")
        layer = view.layer
    root = Root(0, "base", str(base))
    messages = run_changes(WorkerSpec(owner, (root,), {"to": str(layer)}, {"patch": True}))
    assert messages[-1]["summary"] == {"modified": 1}
    (listed,) = (each for message in messages for each in message.get("changes", ()))
    assert listed["aspects"] == ["content", "mode"]
