"""Commits of real layers to real file systems: conflicts, owners, odd files, odd moments."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from committing import Bench, Ran, litter
from goexfsd import kernel
from goexfsd.worker import Owner, Root
from layering import Session
from manifests import Manifest, differences, manifest

USER = Owner(21001, 21001, (21001, 21005))


class Case:
    """A session over a base below ``home``, ready to commit."""

    def __init__(self, home: Path, build: Callable[[Path], None], owner: Owner | None) -> None:
        self.home = home
        self.session = Session.over(home, lambda base: build(Path(os.fsdecode(base))))
        self.base = Path(os.fsdecode(self.session.base))
        self.owner = owner

    def commit(self, *paths: bytes, at_intent: Callable[[], bool] = lambda: True) -> Ran:
        if self.owner is not None:
            give(Path(os.fsdecode(self.session.layer)), self.owner.uid)
        bench = Bench(self.session.layer, [Root(0, "r", str(self.base))], self.home / "before")
        if self.owner is not None:
            bench.owner = self.owner
        return bench.commit([(0, path) for path in paths], at_intent=at_intent)

    def applied(self, *paths: bytes) -> dict[str, Any]:
        ran = self.commit(*paths)
        assert ran.last["event"] == "applied", ran.messages
        assert ran.last["outcome"] == "forward"
        assert litter(str(self.base)) == []
        return ran.last

    def manifest(self) -> Manifest:
        return manifest(self.base)

    def refused(self, *paths: bytes) -> dict[str, Any]:
        """Commit; it must fail, and leave no trace.  Returns its last message."""
        before = self.manifest()
        changed = {path: os.lstat(path).st_ctime_ns for path in self.paths()}
        ran = self.commit(*paths)
        assert differences(before, self.manifest()) == []
        assert {path: os.lstat(path).st_ctime_ns for path in self.paths()} == changed
        return ran.last

    def paths(self) -> list[Path]:
        return [self.base, *self.base.rglob("*")]


def give(top: Path, uid: int) -> None:
    """Hand what root made to ``uid``."""
    for path in [top, *top.rglob("*")]:
        if os.lstat(path).st_uid == 0:
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            os.chown(path, uid, uid, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(mode)


@pytest.fixture
def make(arena: Path) -> Iterator[Callable[..., Case]]:
    cases: list[Case] = []

    def build(fill: Callable[[Path], None], owner: Owner | None = None) -> Case:
        home = arena / f"case{len(cases)}"
        home.mkdir()
        cases.append(Case(home, fill, owner))
        return cases[-1]

    yield build
    for case in cases:
        case.session.close()


def project(base: Path) -> None:
    for name in ("a", "b", "c", "d/x", "d/y", "e/sub/z"):
        path = base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")


def conflicts(message: dict[str, Any]) -> list[tuple[str, str]]:
    assert message["event"] == "conflicts", message
    return [(item["path"], item["reason"]) for item in message["conflicts"]]


def test_every_conflict_is_listed_and_nothing_touched(make: Callable[..., Case]) -> None:
    case = make(project)
    for name in (b"a", b"b", b"d/x"):
        case.session.write(name, b"session\n")
    case.session.write(b"new", b"session\n")
    case.session.unlink(b"c")
    case.session.write(b"e/sub/z", b"session\n")
    case.session.write(b"fine", b"no conflict\n")
    (case.base / "a").write_text("the user's\n")
    (case.base / "b").unlink()
    (case.base / "new").write_text("the user's\n")
    (case.base / "c").rename(case.base / "c.old")
    (case.base / "c").write_text("c\n")
    (case.base / "d" / "x").unlink()
    (case.base / "d" / "x").mkdir()
    (case.base / "e").rename(case.base / "e.away")
    (case.base / "e").symlink_to("e.away")
    found = conflicts(case.refused())
    assert sorted(found) == [
        ("a", "changed"),
        ("b", "deleted"),
        ("c", "replaced"),
        ("d/x", "retyped"),
        ("e", "retyped"),
        ("new", "created"),
    ]


def test_child_that_the_user_put_into_a_deleted_directory(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.remove(b"d")
    (case.base / "d" / "mine").write_text("keep me\n")
    assert ("d/mine", "created") in conflicts(case.refused())


def test_changed_attributes_are_a_conflict(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"a", b"session\n")
    case.session.chmod(b"d", 0o700)
    (case.base / "a").chmod(0o600)
    (case.base / "d").chmod(0o711)
    assert sorted(conflicts(case.refused())) == [("a", "changed"), ("d", "changed")]


def test_the_users_other_edits_survive(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"a", b"session\n")
    case.session.rename(b"d", b"moved")
    (case.base / "b").write_text("the user's\n")
    (case.base / "d" / "also").write_text("in a directory that moves\n")
    case.applied()
    assert (case.base / "a").read_text() == "session\n"
    assert (case.base / "b").read_text() == "the user's\n"
    assert (case.base / "moved" / "also").read_text() == "in a directory that moves\n"


def usage(message: dict[str, Any]) -> str:
    assert message["event"] == "error", message
    assert message["error"]["data"]["code"] == "usage"
    return str(message["error"]["message"])


def test_selections_that_cannot_stand_alone(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.rename(b"a", b"renamed")
    case.session.rename(b"d", b"moved")
    case.session.write(b"moved/x", b"changed\n")
    case.session.write(b"one", b"1")
    case.session.link(b"one", b"two")
    assert "a was renamed to renamed" in usage(case.refused(b"renamed"))
    assert "a was renamed to renamed" in usage(case.refused(b"a"))
    assert "lies in moved" in usage(case.refused(b"moved/x"))
    assert "names of one file" in usage(case.refused(b"one"))
    assert case.refused(b"nothing")["error"]["data"]["code"] == "not_found"


def test_selection_brings_the_parents_it_needs(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.mkdir(b"n")
    case.session.mkdir(b"n/m")
    case.session.write(b"n/m/wanted", b"1")
    case.session.write(b"n/m/other", b"2")
    case.session.write(b"a", b"not now")
    assert case.applied(b"n/m/wanted")["applied"] == {"created": 3}
    assert sorted(os.listdir(case.base / "n" / "m")) == ["wanted"]
    assert (case.base / "a").read_text() == "a\n"


def test_attributes_arrive(make: Callable[..., Case]) -> None:
    case = make(project)
    session = case.session
    session.write(b"tool", b"#!/bin/sh\n")
    session.chmod(b"tool", 0o4755)
    upper = session.upper(b"tool")
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    os.setxattr(upper, "security.capability", capability)
    os.setxattr(upper, "user.note", b"n")
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, perm, who)
        for tag, perm, who in (
            (1, 7, 2**32 - 1),
            (2, 6, 1234),
            (4, 5, 2**32 - 1),
            (16, 7, 2**32 - 1),
            (32, 5, 2**32 - 1),
        )
    )
    session.write(b"shared", b"")
    os.setxattr(session.upper(b"shared"), "system.posix_acl_access", acl)
    session.chown(b"a", 1234)
    session.utime(b"b", 10**18 + 7)
    session.mkfifo(b"pipe")
    assert case.applied()["losses"] == []
    st = os.stat(case.base / "tool")
    assert stat.S_IMODE(st.st_mode) == 0o4755
    assert os.getxattr(case.base / "tool", "security.capability") == capability
    assert os.getxattr(case.base / "tool", "user.note") == b"n"
    assert os.getxattr(case.base / "shared", "system.posix_acl_access") == acl
    assert os.stat(case.base / "a").st_uid == 1234
    assert os.stat(case.base / "b").st_mtime_ns == 10**18 + 7
    assert stat.S_ISFIFO(os.stat(case.base / "pipe").st_mode)


def test_default_acl_of_the_root_does_not_leak_into_new_files(make: Callable[..., Case]) -> None:
    def build(base: Path) -> None:
        project(base)
        subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx", str(base)], check=True)

    case = make(build)
    case.session.write(b"plain", b"as the session made it\n")
    case.applied()
    assert os.listxattr(case.base / "plain") == []


def test_sparse_files_stay_sparse(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"huge", b"start")
    fd = os.open(case.session.upper(b"huge"), os.O_RDWR)
    os.pwrite(fd, b"end", 2**40)
    os.close(fd)
    case.applied()
    st = os.stat(case.base / "huge")
    assert st.st_size == 2**40 + 3
    assert st.st_blocks < 2000
    fd = os.open(case.base / "huge", os.O_RDONLY)
    assert os.pread(fd, 3, 2**40) == b"end"
    os.close(fd)


def test_names_of_any_bytes_and_paths_beyond_path_max(make: Callable[..., Case]) -> None:
    case = make(project)
    odd = [b"\xff\xfe", b"new\nline", b"\x1b[31m", b"-rf", b"n" * 255]
    for name in odd:
        case.session.write(name, name)
    case.session.rename(b"a", b"A")
    top = os.open(case.session.upper(b""), os.O_PATH)
    here = top
    for depth in range(60):
        name = b"%03d" % depth + b"x" * 96
        os.mkdir(name, dir_fd=here)
        deeper = os.open(name, os.O_PATH, dir_fd=here)
        os.setxattr(f"/proc/self/fd/{deeper}", "user.overlay.opaque", b"y")
        os.close(here)
        here = deeper
    os.close(os.open(b"bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    case.applied()
    assert sorted(odd) == sorted(
        os.fsencode(name) for name in os.listdir(case.base) if os.fsencode(name) in odd
    )
    assert (case.base / "A").read_text() == "a\n"
    found = subprocess.run(
        ["find", str(case.base), "-name", "bottom"], capture_output=True, check=True
    )
    assert len(found.stdout) > 6000


def own(path: Path, uid: int = USER.uid) -> None:
    for entry in [path, *path.rglob("*")]:
        os.chown(entry, uid, uid, follow_symlinks=False)


def users_project(base: Path) -> None:
    project(base)
    own(base)


def test_as_an_ordinary_owner(make: Callable[..., Case]) -> None:
    def build(base: Path) -> None:
        users_project(base)
        (base / "ro").mkdir()
        (base / "ro" / "inside").write_text("old")
        (base / "ro" / "gone").write_text("x")
        (base / "secret").write_text("unreadable")
        (base / "linked").write_text("v")
        os.link(base / "linked", base / "linked2")
        own(base)
        (base / "secret").chmod(0)
        (base / "linked").chmod(0o444)
        (base / "ro").chmod(0o555)

    case = make(build, USER)
    session = case.session
    session.write(b"ro/inside", b"new")
    session.unlink(b"ro/gone")
    session.write(b"linked", b"through a read-only file")
    session.mkdir(b"closed")
    session.write(b"closed/f", b"f")
    session.rename(b"b", b"closed/b")
    session.chmod(b"closed", 0o555)
    session.remove(b"d")
    session.unlink(b"secret")
    assert case.applied()["losses"] == []
    base = case.base
    assert (base / "ro" / "inside").read_text() == "new"
    assert stat.S_IMODE(os.stat(base / "ro").st_mode) == 0o555
    assert (base / "linked2").read_text() == "through a read-only file"
    assert stat.S_IMODE(os.stat(base / "linked").st_mode) == 0o444
    assert stat.S_IMODE(os.stat(base / "closed").st_mode) == 0o555
    assert (base / "closed" / "b").read_text() == "b\n"
    assert not (base / "secret").exists()
    assert {os.lstat(path).st_uid for path in case.paths()} == {USER.uid}
    images = [path for path in (case.home / "before").iterdir() if path.name.startswith("late")]
    assert [path.read_text() for path in images if path.is_file()] == ["unreadable"]


def test_file_of_somebody_else_keeps_its_owner(make: Callable[..., Case]) -> None:
    def build(base: Path) -> None:
        users_project(base)
        os.chown(base / "a", 21002, 21005)
        (base / "a").chmod(0o660)

    case = make(build, USER)
    inode = os.stat(case.base / "a").st_ino
    case.session.write(b"a", b"written as a member of its group\n")
    assert all(loss["what"] == "times" for loss in case.applied()["losses"])
    st = os.stat(case.base / "a")
    assert (st.st_uid, st.st_gid, st.st_ino) == (21002, 21005, inode)
    assert (case.base / "a").read_text() == "written as a member of its group\n"


def denied(message: dict[str, Any], *words: str) -> None:
    assert message["event"] == "error", message
    assert message["error"]["data"]["code"] == "denied"
    for word in words:
        assert word in str(message["error"]["data"]["obstacles"])


def test_directories_that_the_owner_may_not_write(make: Callable[..., Case]) -> None:
    def build(base: Path) -> None:
        users_project(base)
        os.chown(base / "d", 0, 0)

    case = make(build, USER)
    case.session.unlink(b"d/x")
    denied(case.refused(), "r/d is not writable")


@pytest.mark.parametrize(("flag", "word"), [("i", "immutable"), ("a", "append-only")])
def test_immutable_and_append_only(make: Callable[..., Case], flag: str, word: str) -> None:
    case = make(project)
    case.session.write(b"a", b"session\n")
    case.session.remove(b"d")
    case.session.write(b"e/sub/new", b"x")
    marked = [case.base / name for name in ("a", "d/x", "e/sub")]
    subprocess.run(["chattr", f"+{flag}", *map(str, marked)], check=True)
    try:
        # chattr moves the ctime: what a session saw before is a conflict then, so commit what
        # was seen with the flags on.
        message = case.refused(b"e")
        denied(message, f"r/e/sub is {word}")
        assert case.refused()["event"] == "conflicts"
    finally:
        subprocess.run(["chattr", f"-{flag}", *map(str, marked)], check=True)


def test_read_only_base(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"a", b"session\n")
    kernel.mount(str(case.base), str(case.base), None, kernel.MS_BIND, None)
    flags = kernel.MS_BIND | kernel.MS_RDONLY | 32
    try:
        kernel.mount("none", str(case.base), None, flags, None)
        denied(case.refused(), "read-only")
    finally:
        kernel.umount(str(case.base), kernel.MNT_DETACH)


@contextlib.contextmanager
def tmpfs(at: Path, options: str = "") -> Iterator[None]:
    kernel.mount("tmpfs", str(at), "tmpfs", 0, options or None)
    try:
        yield
    finally:
        kernel.umount(str(at), kernel.MNT_DETACH)


def test_no_room_in_the_base(make: Callable[..., Case], arena: Path) -> None:
    (arena / "small").mkdir()
    with tmpfs(arena / "small", "size=4m"):
        case = make(project)
        case.base = arena / "small"
        case.session.write(b"big", os.urandom(3 * 2**20))
        project(case.base)
        message = case.refused(b"big")
        case.session.write(b"big2", os.urandom(5 * 2**20))
        message = case.refused(b"big2")
    assert message["error"]["data"]["code"] == "limit"


def test_mount_points_inside_a_root(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"d/x", b"session\n")
    case.session.remove(b"e")
    with tmpfs(case.base / "d"):
        (case.base / "d" / "x").write_text("on the mount\n")
        found = conflicts(case.refused())
    assert found == [("d", "replaced"), ("d/x", "parent")]


def test_data_are_shared_where_base_and_store_are_one_btrfs(btrfs_image: Path) -> None:
    (btrfs_image / "case").mkdir()
    case = Case(btrfs_image / "case", project, None)
    try:
        case.session.write(b"big", os.urandom(64 * 2**20))
        case.session.write(b"a", b"session\n")
        os.sync()
        used = os.statvfs(btrfs_image)
        case.applied()
        os.sync()
        now = os.statvfs(btrfs_image)
    finally:
        case.session.close()
    assert (case.base / "big").stat().st_size == 64 * 2**20
    assert (used.f_bfree - now.f_bfree) * used.f_frsize < 16 * 2**20


# -- moments --------------------------------------------------------------------------------------


def test_daemon_that_goes_away_at_the_intent(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"a", b"session\n")
    before = case.manifest()
    case.commit(at_intent=lambda: False)
    assert differences(before, case.manifest()) == []
    assert litter(str(case.base)) == []


def test_edits_in_the_last_moment_are_kept(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"a", b"session\n")
    case.session.write(b"new", b"session\n")
    case.session.unlink(b"b")
    case.session.remove(b"d")

    def interfere() -> bool:
        (case.base / "a").write_text("the user's, just now\n")
        (case.base / "new").write_text("the user's new\n")
        (case.base / "b").unlink()
        (case.base / "d" / "mine").write_text("the user's, in d\n")
        return True

    ran = case.commit(at_intent=interfere)
    assert ran.last["event"] == "applied", ran.messages
    assert (case.base / "a").read_text() == "session\n"
    assert (case.base / "new").read_text() == "session\n"
    assert litter(str(case.base)) == []
    kept = {(case.home / "before" / item["image"]).read_text() for item in ran.last["late"]}
    assert kept == {"the user's, just now\n", "the user's new\n", "the user's, in d\n"}


def test_directory_swapped_for_a_symlink_in_the_last_moment(make: Callable[..., Case]) -> None:
    case = make(project)
    outside = case.home / "outside"
    project(outside)
    case.session.write(b"d/x", b"session\n")
    case.session.write(b"d/new", b"session\n")
    case.session.unlink(b"d/y")
    case.session.write(b"a", b"session\n")
    there = manifest(outside)

    def swap() -> bool:
        (case.base / "d").rename(case.base / "hidden")
        (case.base / "d").symlink_to(outside)
        return True

    ran = case.commit(at_intent=swap)
    assert ran.last["outcome"] == "back", ran.messages
    assert ran.last["error"]["data"]["code"] == "conflict"
    assert differences(there, manifest(outside)) == []
    assert (case.base / "a").read_text() == "a\n"
    assert (case.base / "hidden" / "x").read_text() == "d/x\n"
    assert litter(str(case.base)) == []


def test_apply_that_fails_half_way_is_taken_back(make: Callable[..., Case]) -> None:
    def build(base: Path) -> None:
        project(base)
        os.link(base / "c", base / "c2")

    case = make(build)
    session = case.session
    session.write(b"a", b"session\n")
    session.write(b"c", b"in place\n")
    session.rename(b"b", b"d/b")
    session.rename(b"d", b"moved")
    session.write(b"e/sub/z", b"session\n")
    session.chmod(b"moved/x", 0o600)
    before = case.manifest()

    def freeze() -> bool:
        subprocess.run(["chattr", "+i", str(case.base / "e" / "sub")], check=True)
        return True

    try:
        ran = case.commit(at_intent=freeze)
    finally:
        subprocess.run(["chattr", "-i", str(case.base / "e" / "sub")], check=True)
    assert ran.last["outcome"] == "back", ran.messages
    assert ran.last["error"]["data"]["code"] == "denied"
    assert differences(before, case.manifest()) == []
    assert litter(str(case.base)) == []


def test_root_renamed_in_the_last_moment(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"a", b"session\n")
    away = case.home / "away"

    def replace() -> bool:
        case.base.rename(away)
        project(case.base)
        return True

    ran = case.commit(at_intent=replace)
    assert ran.last["event"] == "applied"
    assert (away / "a").read_text() == "session\n"
    assert (case.base / "a").read_text() == "a\n"


def test_two_roots_in_one_commit(make: Callable[..., Case]) -> None:
    case = make(project)
    case.session.write(b"a", b"session\n")
    second = case.home / "second"
    project(second)
    upper = Path(os.fsdecode(case.session.layer)) / "upper" / "s"
    upper.mkdir()
    (upper / "fresh").write_text("in the second root\n")
    roots = [Root(0, "r", str(case.base)), Root(1, "s", str(second))]
    ran = Bench(case.session.layer, roots, case.home / "before").commit()
    assert ran.last["applied"] == {"modified": 1, "created": 1}
    assert (second / "fresh").read_text() == "in the second root\n"
    assert litter(str(second)) == []
