"""Random work on the kernel's overlayfs over our layer: the change list is exact, and after a
commit the base is what the view showed."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, note, settings

from committing import Bench, litter
from goexfsd import kernel
from goexfsd.layer.changes import Change, compute
from goexfsd.layer.writer import Layer
from goexfsd.overlay.adopt import Adopter
from goexfsd.overlay.mount import mount
from goexfsd.worker import Owner, Root, WorkerSpec
from layering import Item, Session, manifest
from layerops import Op, base_trees, build, operations, perform
from sincecheck import Kept
from views import create_layer, store

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]


class Mounted:
    """A base, its layer, and overlayfs over both; the operations of ``layering.Session``."""

    def __init__(self, home: Path, fill: list[Op]) -> None:
        self.home = home
        self.base, self.at = home / "base", home / "mnt"
        self.base.mkdir()
        self.at.mkdir()
        build(fill)(os.fsencode(self.base))
        self.layer = create_layer(home / "layer", Owner(0, 0, ()), ["r"])
        self.roots = (Root(0, "r", str(self.base)),)
        self.opened_ns = time.time_ns() + 10_000_000  # what was made just now is not news
        options = {"mountpoint": str(self.at)}
        mount(WorkerSpec(Owner(0, 0, ()), self.roots, {"live": str(self.layer)}, options))
        self.model = os.fsencode(self.at)

    def unmount(self) -> None:
        kernel.umount(self.model, kernel.MNT_DETACH)

    def at_(self, path: bytes) -> bytes:
        return self.model + b"/" + path if path else self.model

    def write(self, path: bytes, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(self.at_(path), flags, 0o644), "wb") as file:
            file.write(data)

    def touch(self, path: bytes) -> None:
        st = os.lstat(self.at_(path))
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(self.at_(path), stat.S_IMODE(st.st_mode))

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self.at_(path))

    def symlink(self, path: bytes, target: bytes) -> None:
        os.symlink(target, self.at_(path))

    def mkfifo(self, path: bytes) -> None:
        os.mkfifo(self.at_(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self.at_(path))

    def remove(self, path: bytes) -> None:
        if stat.S_ISDIR(os.lstat(self.at_(path)).st_mode):
            shutil.rmtree(self.at_(path))
        else:
            os.unlink(self.at_(path))

    def rename(self, old: bytes, new: bytes) -> None:
        os.rename(self.at_(old), self.at_(new))

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self.at_(old), self.at_(new), follow_symlinks=False)

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self.at_(path), mode)

    def chown(self, path: bytes, uid: int) -> None:
        os.chown(self.at_(path), uid, -1, follow_symlinks=False)

    def utime(self, path: bytes, when: int) -> None:
        os.utime(self.at_(path), ns=(when, when), follow_symlinks=False)

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        os.setxattr(self.at_(path), name, value, follow_symlinks=False)

    def adopt(self) -> None:
        """What the kernel view's worker does at the end of a step."""
        layer_fd = os.open(self.layer, os.O_RDONLY | os.O_DIRECTORY)
        root_fd = os.open(self.base, os.O_PATH | os.O_DIRECTORY)
        layer = Layer(layer_fd, [b"r"], [os.fstat(root_fd).st_dev])
        adopter = Adopter(layer, self.roots, [root_fd], self.opened_ns)
        try:
            adopter.adopt()
        finally:
            adopter.close()
            layer.close()
            os.close(root_fd)

    def changes(self) -> list[Change]:
        layer = os.open(self.layer, os.O_RDONLY | os.O_DIRECTORY)
        base = os.open(self.base, os.O_PATH | os.O_DIRECTORY)
        try:
            return compute(layer, list(self.roots), [base])
        finally:
            os.close(layer)
            os.close(base)

    def commit(self) -> Bench:
        return Bench(str(self.layer), self.roots, self.home / "before")


def shown(tree: dict[bytes, Item]) -> dict[bytes, tuple[object, ...]]:
    """What has to be equal; overlayfs shows link counts of the lower file where only one of its
    names was copied up, so those are not."""
    return {
        path: (
            item.kind,
            0 if stat.S_ISLNK(item.kind) else item.mode,
            item.owner,
            item.xattrs,
            item.data,
            item.rdev,
        )
        for path, item in tree.items()
    }


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory, store(Path(directory)) as at:
        yield at


def parents(changes: list[Change], path: bytes) -> bool:
    return any(path.startswith(change.path + b"/") for change in changes)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(base=base_trees(), ops=operations())
def test_what_the_kernel_wrote_is_committed_as_it_was_shown(
    ground: Path, base: list[Op], ops: list[Op]
) -> None:
    with tempfile.TemporaryDirectory(dir=ground) as home:
        mounted = Mounted(Path(home), base)
        try:
            perform(cast(Session, mounted), ops)
            view = manifest(mounted.model)
        finally:
            mounted.unmount()
        before = manifest(os.fsencode(mounted.base))
        mounted.adopt()
        found = mounted.changes()
        for change in found:
            note(f"{change.kind} {change.old_path!r} {change.path!r} {set(change.aspects)}")
        named = {change.path for change in found if change.kind != "deleted"}
        named |= {change.old_path for change in found if change.old_path is not None}
        gone = {change.path for change in found if change.kind == "deleted"}
        for path in view.keys() | before.keys():
            same = path in view and path in before and shown(view)[path] == shown(before)[path]
            if not same:
                assert path in named | gone, path
        ran = mounted.commit().commit()
        note(str(ran.messages))
        assert ran.last["event"] in ("applied", "nothing"), ran.messages
        assert shown(manifest(os.fsencode(mounted.base))) == shown(view)
        assert litter(str(mounted.base)) == []


@settings(
    max_examples=int(os.environ.get("GOEXFS_EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(base=base_trees(), first=operations(), second=operations())
def test_generations_lead_to_what_a_walk_finds(
    ground: Path, base: list[Op], first: list[Op], second: list[Op]
) -> None:
    with tempfile.TemporaryDirectory(dir=ground) as home:
        mounted = Mounted(Path(home), base)
        kept = Kept(mounted.layer, mounted.roots, mounted.base)
        try:
            for ops in (first, second):
                perform(cast(Session, mounted), ops)
                mounted.adopt()
                kept.keep()
        finally:
            mounted.unmount()
        kept.check()
        assert kept.told
        kept.drop()


@pytest.fixture
def small(ground: Path) -> Iterator[Mounted]:
    fill: list[Op] = [("file", (b"f", b"one\ntwo\n")), ("file", (b"g", b"other\n"))]
    with tempfile.TemporaryDirectory(dir=ground) as home:
        mounted = Mounted(Path(home), fill)
        os.utime(mounted.base / "g", ns=(10**18, 10**18))
        try:
            yield mounted
        finally:
            mounted.unmount()


def test_a_renamed_file_is_a_rename(small: Mounted) -> None:
    small.mkdir(b"d")
    small.rename(b"g", b"d/h")
    small.adopt()
    found = {(change.kind, change.path, change.old_path) for change in small.changes()}
    assert found == {("created", b"d", None), ("renamed", b"d/h", b"g")}


def test_the_users_edit_since_the_session_opened_is_a_conflict(small: Mounted) -> None:
    """Before the session's own write too: nothing says which of the two it saw."""
    small.opened_ns = time.time_ns()
    while (small.base / "f").stat().st_ctime_ns <= small.opened_ns:
        (small.base / "f").write_text("the user's\n")  # the file system's clock is coarse
    small.write(b"f", b"the session's\n")
    small.adopt()
    ran = small.commit().commit()
    conflicts = ran.last["conflicts"]
    assert [(each["path"], each["reason"]) for each in conflicts] == [("f", "changed")]
    assert (small.base / "f").read_text() == "the user's\n"


def test_the_count_moves_with_the_layer_only(small: Mounted) -> None:
    layer_fd = os.open(small.layer, os.O_RDONLY | os.O_DIRECTORY)
    root_fd = os.open(small.base, os.O_PATH | os.O_DIRECTORY)
    layer = Layer(layer_fd, [b"r"], [os.fstat(root_fd).st_dev])
    adopter = Adopter(layer, small.roots, [root_fd], small.opened_ns)
    try:
        small.write(b"f", b"x")
        count = adopter.adopt()
        while adopter.adopt() != adopter.adopt():
            pass  # what has just happened may not have a time of its own yet
        still = adopter.adopt()
        assert adopter.adopt() == still >= count
        small.write(b"f", b"y")
        assert adopter.adopt() > still
    finally:
        adopter.close()
        layer.close()
        os.close(root_fd)
