"""Sessions over a snapshot: roots on the btrfs that holds the store too."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bases import make_tree, mounted_at
from daemons import Daemon, MakeDaemon, User
from goexfsd import kernel
from manifests import differences, manifest


@pytest.fixture
def stable_daemon(btrfs_image: Path, make_daemon: MakeDaemon) -> Daemon:
    """A daemon with its store in a directory of the btrfs that the roots lie on."""
    store = btrfs_image / "store"
    store.mkdir(mode=0o700)
    return make_daemon(f'store = "{store}"\n')


@pytest.fixture
def project(btrfs_image: Path, ordinary_user: User) -> Path:
    """The small project, a few directories below the top of its subvolume."""
    home = btrfs_image / "home" / "user"
    home.mkdir(parents=True)
    return make_tree(home / "project", ordinary_user)


class Session:
    """One session of an ordinary user's, through the command line."""

    def __init__(self, daemon: Daemon, root: Path, user: User, *options: str) -> None:
        self.daemon, self.root, self.user = daemon, root, user
        self.told = self("mount", root, *options)
        self.id = self.told["session"]
        self.view = Path(self.told["mountpoint"])

    def __call__(self, verb: str, *arguments: str | Path, status: int = 0) -> Any:
        done = self.daemon.run(verb, "--json", *arguments, user=self.user, cwd=self.root)
        assert done.status == status, f"{done.out}{done.err}\n{self.daemon.said()[-3000:]}"
        return json.loads(done.out)

    def changes(self) -> set[tuple[str, str]]:
        return {(each["kind"], each["path"]) for each in self("diff")["changes"]}

    def commit(self, *arguments: str | Path, status: int = 0) -> Any:
        return self("commit", "-m", "test", *arguments, status=status)


Open = Callable[[], Session]


@pytest.fixture
def session(stable_daemon: Daemon, project: Path, ordinary_user: User) -> Session:
    return Session(stable_daemon, project, ordinary_user)


def subvolumes_of(store: Path) -> list[str]:
    """The snapshots of bases that a store holds."""
    return sorted(str(each.relative_to(store)) for each in store.glob("sessions/*/lower.*/*"))


def extents(path: Path) -> list[tuple[int, int]]:
    """Where the file's data lies on the device: (physical offset, length) of each extent."""
    done = subprocess.run(
        ["filefrag", "-v", "-s", str(path)], check=True, capture_output=True, text=True
    )
    lines = [line.split(":") for line in done.stdout.splitlines() if line.strip()[:1].isdigit()]
    return [(int(f[2].split("..")[0]), int(f[3])) for f in lines]


def test_the_view_keeps_what_was_there_and_the_user_what_they_write(
    session: Session, project: Path, btrfs_image: Path
) -> None:
    view = session.view
    before = manifest(project, extents=False)
    assert session.told["roots"][0]["stable"]
    assert differences(before, manifest(view, extents=False)) == []
    (project / "README.md").write_text("# mine\n")
    (project / "private").unlink()
    (project / "fresh").write_text("fresh\n")
    (project / "src" / "deep").rename(project / "deeper")
    kernel.renameat2(
        -100, bytes(project / "run.sh"), -100, bytes(project / "empty"), kernel.RENAME_EXCHANGE
    )
    assert differences(before, manifest(view, extents=False)) == []
    assert session.changes() == set()
    (view / "src" / "main.py").write_text("print('session')\n")
    assert session.changes() == {("modified", "src/main.py")}
    assert session.commit()["closed"]
    assert (project / "src" / "same.py").read_text() == "print('session')\n"
    assert (project / "README.md").read_text() == "# mine\n"
    assert not (project / "private").exists()
    assert (project / "fresh").read_text() == "fresh\n"
    assert (project / "deeper" / "er" / "data.bin").exists()
    assert (project / "run.sh").is_dir()
    assert subvolumes_of(btrfs_image / "store") == []


def test_a_conflict_is_found_against_the_real_directory(session: Session, project: Path) -> None:
    (session.view / "README.md").write_text("# session\n")
    (session.view / "made").write_text("session\n")
    (project / "README.md").write_text("# mine\n")
    (project / "made").write_text("mine\n")
    before = manifest(project)
    result = session.commit(status=3)
    told = result.get("conflicts") or result["error"]["conflicts"]
    assert {(each["path"], each["reason"]) for each in told} == {
        ("README.md", "changed"),
        ("made", "created"),
    }
    assert differences(before, manifest(project)) == []
    assert session.changes() == {("modified", "README.md"), ("created", "made")}
    session("discard")
    assert differences(before, manifest(project)) == []


def test_what_was_only_touched_is_no_conflict(session: Session, project: Path) -> None:
    """The session wrote the same bytes; what the user wrote meanwhile stays."""
    text = (project / "README.md").read_text()
    (session.view / "README.md").write_text(text)
    (session.view / "src" / "main.py").write_text("print('session')\n")
    (project / "README.md").write_text("# mine\n")
    (project / "src").chmod(0o750)
    assert session.changes() == {("modified", "src/main.py")}
    assert session.commit()["closed"]
    assert (project / "README.md").read_text() == "# mine\n"
    assert (project / "src").stat().st_mode & 0o777 == 0o750
    assert (project / "src" / "main.py").read_text() == "print('session')\n"


def test_what_the_session_never_saw_is_not_deleted_with_its_directory(
    session: Session, project: Path
) -> None:
    subprocess.run(["rm", "-r", str(session.view / "src")], check=True)
    (project / "src" / "deep" / "mine").write_text("mine\n")
    before = manifest(project)
    assert ("deleted", "src/deep/mine") not in session.changes()
    result = session.commit(status=3)
    told = result.get("conflicts") or result["error"]["conflicts"]
    assert [each["path"] for each in told] == ["src/deep/mine"]
    assert differences(before, manifest(project)) == []
    session("discard")


def test_a_partial_commit_brings_the_session_up_to_date(
    session: Session, stable_daemon: Daemon, project: Path, btrfs_image: Path
) -> None:
    view = session.view
    (first,) = subvolumes_of(btrfs_image / "store")
    (view / "README.md").write_text("# session\n")
    (view / "run.sh").write_text("other\n")
    (project / "private").write_text("mine\n")
    kept = open(view / "private")  # noqa: SIM115
    same = open(view / "src" / "deep" / "er" / "data.bin", "rb")  # noqa: SIM115
    try:
        assert not session.commit("README.md")["closed"]
        assert (project / "README.md").read_text() == "# session\n"
        assert (view / "README.md").read_text() == "# session\n"
        assert (view / "private").read_text() == "mine\n"
        assert kept.read() == "secret\n"
        assert same.read() == bytes(range(256)) * 64
    finally:
        kept.close()
        same.close()
    assert session.changes() == {("modified", "run.sh")}
    (second,) = subvolumes_of(btrfs_image / "store")
    assert second != first
    _cut_off(stable_daemon)
    assert session.changes() == {("modified", "run.sh")}
    assert (view / "private").read_text() == "mine\n"
    (third,) = subvolumes_of(btrfs_image / "store")
    assert third not in (first, second)
    (project / "private").write_text("mine again\n")
    (view / "private").chmod(0o640)
    (view / "README.md").write_text("# again\n")
    assert (view / "private").read_text() == "mine\n"
    told = session.commit(status=3)
    found = told.get("conflicts") or told["error"]["conflicts"]
    assert [each["path"] for each in found] == ["private"]
    session.commit("README.md", "run.sh")
    assert (project / "README.md").read_text() == "# again\n"
    assert (project / "private").read_text() == "mine again\n"
    session("discard")
    assert subvolumes_of(btrfs_image / "store") == []


def _cut_off(daemon: Daemon) -> None:
    """Let the daemon die as the commit was all but recorded; and another finish it."""
    daemon.kill()
    with closing(sqlite3.connect(daemon.state / "catalog.sqlite")) as db:
        db.execute("UPDATE commits SET state='intent'")
        db.execute("UPDATE sessions SET state='committing'")
        db.commit()
    daemon.start()
    with closing(sqlite3.connect(daemon.state / "catalog.sqlite")) as db:
        assert db.execute("SELECT state FROM commits").fetchall() == [("done",)]


def test_it_is_the_same_after_a_restart(
    session: Session, stable_daemon: Daemon, project: Path, btrfs_image: Path
) -> None:
    view = session.view
    (view / "README.md").write_text("# session\n")
    (project / "private").write_text("mine\n")
    before = manifest(view, extents=False)
    numbers = {path: path.lstat().st_ino for path in view.rglob("*")}
    stable_daemon.kill()
    orphan = btrfs_image / "store" / "sessions" / session.id / "lower.7"
    orphan.mkdir()
    subprocess.run(
        ["btrfs", "-q", "subvolume", "snapshot", "-r", str(btrfs_image), str(orphan / "0")],
        check=True,
    )
    stable_daemon.start()
    assert not orphan.exists()
    assert differences(before, manifest(view, extents=False)) == []
    assert {path: path.lstat().st_ino for path in view.rglob("*")} == numbers
    assert session.changes() == {("modified", "README.md")}
    session("discard")


def test_a_fork_sees_the_same_base(
    session: Session, stable_daemon: Daemon, project: Path, ordinary_user: User
) -> None:
    (session.view / "made").write_text("made\n")
    (project / "README.md").write_text("# mine\n")
    fork = session("fork")
    view = Path(fork["mountpoint"])
    assert (view / "README.md").read_text() == "# project\n"
    session("discard", "-s", session.id)
    assert (view / "made").read_text() == "made\n"
    assert (view / "README.md").read_text() == "# project\n"
    session("discard", "-s", fork["session"])


def test_a_rewound_view_forgets_what_was_absent(
    session: Session, project: Path, btrfs_image: Path
) -> None:
    """Absence is remembered for good over a stable base, but not over a rewind."""
    (session.view / "later").touch()
    session("checkpoint")
    (session.view / "later").unlink()
    assert not (session.view / "later").exists()
    assert not (session.view / "never").exists()
    session("rewind", "0")
    assert (session.view / "later").exists()
    assert not (session.view / "never").exists()
    (session.view / "never").touch()
    assert (session.view / "never").exists()
    _check_shared_extents(session, project, btrfs_image)
    session("discard")


def _check_shared_extents(session: Session, project: Path, btrfs_image: Path) -> None:
    """A copy shares what was not written with the real file."""
    big = session.view / "src" / "deep" / "er" / "data.bin"
    number = big.stat().st_ino
    with open(big, "r+b") as file:
        file.write(b"x")
        os.fsync(file.fileno())
    assert big.stat().st_ino == number
    (copy,) = (btrfs_image / "store").glob("sessions/*/layer/upper/*/src/deep/er/data.bin")
    ends = [sum(extents(path)[-1]) for path in (copy, project / "src" / "deep" / "er" / "data.bin")]
    assert ends[0] == ends[1]


def test_roots_that_cannot_have_it_are_live(
    stable_daemon: Daemon, btrfs_image: Path, ordinary_user: User, ext4_image: Path
) -> None:
    """Another file system, a nested subvolume, a mount inside."""
    elsewhere = make_tree(ext4_image / "project", ordinary_user)
    nesting = make_tree(btrfs_image / "nesting", ordinary_user)
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(nesting / "sub")], check=True)
    (nesting / "sub" / "inside").write_text("inside\n")
    holding = make_tree(btrfs_image / "holding", ordinary_user)
    with mounted_at(holding / "empty" / "tmp", "tmpfs") as at:
        (at / "mounted").write_text("mounted\n")
        for root in (elsewhere, nesting, holding):
            session = Session(stable_daemon, root, ordinary_user)
            assert not session.told["roots"][0]["stable"]
            assert subvolumes_of(btrfs_image / "store") == []
            (root / "README.md").write_text("# mine\n")
            _until(lambda: (session.view / "README.md").read_text() == "# mine\n")  # noqa: B023
            session("discard")


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_of_several_roots_some_are_stable(
    stable_daemon: Daemon, project: Path, btrfs_image: Path, ext4_image: Path, ordinary_user: User
) -> None:
    """Two in two subvolumes, one elsewhere; a partial commit brings up to date what has to be."""
    subprocess.run(["btrfs", "-q", "subvolume", "create", str(btrfs_image / "sub")], check=True)
    second = make_tree(btrfs_image / "sub" / "second", ordinary_user)
    third = make_tree(ext4_image / "third", ordinary_user)
    session = Session(
        stable_daemon, project, ordinary_user, "--root", str(second), "--root", str(third)
    )
    assert [root["stable"] for root in session.told["roots"]] == [True, True, False]
    assert len(subvolumes_of(btrfs_image / "store")) == 2
    for root in (project, second, third):
        (root / "private").write_text("mine\n")
        (session.view / root.name / "README.md").write_text("# session\n")
        (session.view / root.name / "made").write_text("made\n")
    shown = [session.view / name / "private" for name in ("project", "second", "third")]
    assert [path.read_text() for path in shown[:2]] == ["secret\n"] * 2
    _until(lambda: shown[2].read_text() == "mine\n")
    session.commit(second / "README.md", third / "README.md")
    assert [path.read_text() for path in shown] == ["mine\n"] * 3
    assert session.changes() == {
        ("modified", "README.md"),
        ("created", "made"),
    }
    assert session.commit()["closed"]
    for root in (project, second, third):
        assert (root / "README.md").read_text() == "# session\n"
        assert (root / "made").read_text() == "made\n"
        assert (root / "private").read_text() == "mine\n"


def test_the_kernels_view_lies_over_it_too(
    stable_daemon: Daemon, project: Path, ordinary_user: User
) -> None:
    session = Session(stable_daemon, project, ordinary_user, "--view", "kernel")
    view = session.view
    (project / "private").write_text("mine\n")
    (view / "README.md").write_text("# session\n")
    (view / "run.sh").write_text("other\n")
    assert (view / "private").read_text() == "secret\n"
    assert session.changes() == {("modified", "README.md"), ("modified", "run.sh")}
    assert not session.commit("README.md")["closed"]
    assert (project / "README.md").read_text() == "# session\n"
    assert (view / "README.md").read_text() == "# session\n"
    assert (view / "private").read_text() == "mine\n"
    assert session.changes() == {("modified", "run.sh")}
    assert session.commit()["closed"]
    assert (project / "private").read_text() == "mine\n"
    assert (project / "run.sh").read_text() == "other\n"


def test_it_can_be_switched_off(
    btrfs_image: Path, project: Path, make_daemon: MakeDaemon, ordinary_user: User
) -> None:
    (btrfs_image / "other").mkdir(mode=0o700)
    daemon = make_daemon(f'store = "{btrfs_image / "other"}"\n[view]\nstable = "off"\n')
    session = Session(daemon, project, ordinary_user)
    assert subvolumes_of(btrfs_image / "other") == []
    session("discard")


def test_nobody_sees_more_in_the_snapshot_than_in_the_base(
    stable_daemon: Daemon, btrfs_image: Path, ordinary_user: User, other_user: User
) -> None:
    """The snapshot holds the whole subvolume; what lies beside the root stays out of reach."""
    mine = make_tree(btrfs_image / "mine", ordinary_user)
    (mine / "theirs").write_text("theirs\n")
    os.chown(mine / "theirs", other_user.uid, other_user.gid)
    (mine / "theirs").chmod(0o600)
    session = Session(stable_daemon, mine, ordinary_user)
    (lower,) = (btrfs_image / "store").glob("sessions/*/lower.*/*")
    read = subprocess.run(
        ["cat", str(lower / "mine" / "README.md")],
        user=ordinary_user.uid,
        group=ordinary_user.gid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert b"Permission denied" in read.stderr
    read = subprocess.run(
        ["cat", str(session.view / "theirs")],
        user=ordinary_user.uid,
        group=ordinary_user.gid,
        extra_groups=[],
        capture_output=True,
        check=False,
    )
    assert b"Permission denied" in read.stderr
    session("discard")
