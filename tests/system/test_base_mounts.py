"""Mounts and a base: a root that is a mount point, mounts inside a root, and committing across."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bases import make_tree, mounted_at
from daemons import Daemon, User
from manifests import differences, manifest


class Session:
    """A session of a user's through the command line."""

    def __init__(self, daemon: Daemon, root: Path, user: User) -> None:
        self.daemon, self.root, self.user = daemon, root, user
        self.view = Path(self("mount", root)["mountpoint"])

    def __call__(self, verb: str, *arguments: str | Path, status: int = 0) -> Any:
        done = self.daemon.run(verb, "--json", *arguments, user=self.user, cwd=self.root)
        assert status is None or done.status == status, (
            f"{done.out}{done.err}\n{self.daemon.said()[-3000:]}"
        )
        return json.loads(done.out)


def test_a_root_that_is_a_mount_point(daemon: Daemon, arena: Path, ordinary_user: User) -> None:
    with mounted_at(arena / "mounted", "tmpfs", "size=64m") as root:
        make_tree(root / "tree", ordinary_user)
        for path in (root / "tree").iterdir():
            path.rename(root / path.name)
        (root / "tree").rmdir()
        ordinary_user.own(root)
        before = manifest(root)
        session = Session(daemon, root, ordinary_user)
        (session.view / "README.md").write_text("# session\n")
        (session.view / "src").rename(session.view / "code")
        assert differences(before, manifest(root)) == []
        session("commit", "-m", "test")
        assert (root / "README.md").read_text() == "# session\n"
        assert (root / "code" / "main.py").exists()
        session("undo")
        assert differences(before, manifest(root)) == []


def test_changes_inside_a_mount_and_across_it(
    daemon: Daemon, arena: Path, ordinary_user: User
) -> None:
    tree = make_tree(arena / "project", ordinary_user)
    with mounted_at(tree / "empty" / "inner", "tmpfs") as inner:
        (inner / "file").write_text("inner\n")
        (inner / "gone").write_text("gone\n")
        (inner / "moved").write_text("moved\n")
        (inner / "dir").mkdir()
        (inner / "dir" / "below").write_text("below\n")
        ordinary_user.own(inner)
        before = manifest(tree)
        session = Session(daemon, tree, ordinary_user)
        view = session.view / "empty" / "inner"
        (view / "file").write_text("changed\n")
        (view / "gone").unlink()
        (view / "made").write_text("made\n")
        shown = manifest(session.view, extents=False)
        session("commit", "-m", "inside")
        assert differences(shown, manifest(tree, extents=False)) == []
        session("undo")
        assert differences(before, manifest(tree)) == []

        session = Session(daemon, tree, ordinary_user)
        view = session.view / "empty" / "inner"
        (view / "moved").rename(session.view / "out")
        (session.view / "private").rename(view / "in")
        (view / "dir").rename(session.view / "dir-out")
        (session.view / "src" / "deep").rename(view / "dir-in")
        told = session("commit", "-m", "across", status=1)["error"]
        assert told["code"] == "unsupported"
        assert "another file system" in told["message"]
        assert differences(before, manifest(tree)) == []
        (session.view / "dir-out").rename(view / "dir")
        (view / "dir-in").rename(session.view / "src" / "deep")
        session("commit", "-m", "files go across")
        assert (tree / "out").read_text() == "moved\n"
        assert (inner / "in").read_text() == "secret\n"
        assert not (inner / "moved").exists()
        assert not (tree / "private").exists()
        session("undo")
        assert differences(before, manifest(tree)) == []


def test_access_times_stay_where_every_read_counts(
    daemon: Daemon, arena: Path, ordinary_user: User
) -> None:
    """A whole session over a base mounted strictatime leaves those of all but symlinks alone."""
    with mounted_at(arena / "strict", "tmpfs", "size=64m") as at:
        subprocess.run(["mount", "-o", "remount,strictatime", str(at)], check=True)
        tree = make_tree(at / "project", ordinary_user)
        names = ["README.md", "src/main.py", "src/deep/er/data.bin", "src/deep", "empty", "."]
        for name in names:
            os.utime(tree / name, ns=(1, (tree / name).stat().st_mtime_ns))
        session = Session(daemon, tree, ordinary_user)
        manifest(session.view)
        (session.view / "README.md").write_text("# session\n")
        with open(session.view / "src" / "deep" / "er" / "data.bin", "ab") as file:
            file.write(b"more")
        (session.view / "private").unlink()
        session("checkpoint")
        assert len(session("diff")["changes"]) == 3
        daemon.run("diff", "--patch", user=ordinary_user, cwd=tree)
        session("commit", "--dry-run", "-m", "test")
        assert {(tree / name).stat().st_atime_ns for name in names} == {1}
        session("commit", "-m", "test")
        kept = ("src/main.py", "empty")
        assert {(tree / name).stat().st_atime_ns for name in kept} == {1}
