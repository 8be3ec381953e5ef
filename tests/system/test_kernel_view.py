"""``mount --view kernel``: the same session, commands and promises over the kernel's overlayfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Goexfs
from daemons import Daemon, User
from manifests import Manifest

pytestmark = pytest.mark.root

Manifests = Callable[..., Manifest]
Json = Callable[..., Any]

EDITS = """
set -e
echo new > created.txt
echo more >> README.md
rm -r src/deep
mv run.sh moved.sh
chmod 755 private
mkdir sub && echo x > sub/x
"""


@pytest.fixture
def project(tree: Path, ordinary_user: User) -> Path:
    return ordinary_user.own(tree)


@pytest.fixture
def session(project: Path, goexfs_json: Json, ordinary_user: User) -> Any:
    return goexfs_json("mount", "--view", "kernel", project, user=ordinary_user)


def kinds(found: Any) -> dict[str, str]:
    return {change["path"]: change["kind"] for change in found["changes"]}


def kind_of_mount(path: str) -> str:
    done = subprocess.run(
        ["findmnt", "-no", "FSTYPE", path], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_session_from_mount_to_undo(
    project: Path,
    session: Any,
    ordinary_user: User,
    goexfs: Goexfs,
    goexfs_json: Json,
    manifest: Manifests,
) -> None:
    assert session["view"] == "kernel"
    assert kind_of_mount(session["mountpoint"]) == "overlay"
    before = manifest(project)
    goexfs("run", "--", "sh", "-c", EDITS, user=ordinary_user, cwd=project)
    assert manifest(project) == before
    found = goexfs_json("diff", user=ordinary_user, cwd=project)
    assert kinds(found) == {
        "src/deep": "deleted",
        "src/deep/er": "deleted",
        "src/deep/er/data.bin": "deleted",
        "README.md": "modified",
        "created.txt": "created",
        "moved.sh": "renamed",
        "private": "metadata",
        "sub": "created",
        "sub/x": "created",
    }
    shown = manifest(Path(session["mountpoint"]))
    assert goexfs_json("commit", user=ordinary_user, cwd=project)["applied"]
    after = manifest(project)
    assert after.keys() == shown.keys()
    assert (project / "README.md").read_text() == "# project\nmore\n"
    goexfs("undo", user=ordinary_user, cwd=project)
    assert manifest(project) == before


def test_discard_leaves_no_trace(
    project: Path, session: Any, ordinary_user: User, goexfs: Goexfs, manifest: Manifests
) -> None:
    before = manifest(project)
    goexfs("run", "--", "sh", "-c", EDITS, user=ordinary_user, cwd=project)
    goexfs("discard", user=ordinary_user, cwd=project)
    assert manifest(project) == before
    assert not Path(session["mountpoint"]).exists()


def test_steps_checkpoints_and_rewind(
    project: Path, session: Any, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    top = Path(session["mountpoint"])
    for number in (1, 2, 3):
        goexfs(
            "run", "--", "sh", "-c", f"echo {number} > n{number}", user=ordinary_user, cwd=project
        )
    assert sorted(kinds(goexfs_json("diff", "--step", "2", user=ordinary_user, cwd=project))) == [
        "n2"
    ]
    goexfs("rewind", "1", user=ordinary_user, cwd=project)
    assert [(top / f"n{n}").exists() for n in (1, 2, 3)] == [True, False, False]
    assert sorted(kinds(goexfs_json("diff", user=ordinary_user, cwd=project))) == ["n1"]
    goexfs("run", "--", "sh", "-c", "echo later > later", user=ordinary_user, cwd=project)
    assert sorted(kinds(goexfs_json("diff", user=ordinary_user, cwd=project))) == ["later", "n1"]


def test_a_commit_of_a_part_keeps_the_rest(
    project: Path, session: Any, ordinary_user: User, goexfs: Goexfs, goexfs_json: Json
) -> None:
    goexfs("run", "--", "sh", "-c", EDITS, user=ordinary_user, cwd=project)
    goexfs("commit", "README.md", user=ordinary_user, cwd=project)
    assert (project / "README.md").read_text() == "# project\nmore\n"
    assert "README.md" not in kinds(goexfs_json("diff", user=ordinary_user, cwd=project))
    goexfs("run", "--", "sh", "-c", "echo again >> README.md", user=ordinary_user, cwd=project)
    goexfs("commit", user=ordinary_user, cwd=project)
    assert (project / "README.md").read_text() == "# project\nmore\nagain\n"
    assert (project / "moved.sh").exists()


def test_the_users_own_edit_is_a_conflict(
    project: Path, session: Any, ordinary_user: User, goexfs: Goexfs
) -> None:
    goexfs("run", "--", "sh", "-c", "echo more >> README.md", user=ordinary_user, cwd=project)
    (project / "README.md").write_text("the user's\n")
    done = goexfs("commit", user=ordinary_user, cwd=project, status=3)
    assert "README.md" in done.out + done.err
    assert (project / "README.md").read_text() == "the user's\n"


def test_it_survives_a_restart_and_a_crash(
    project: Path,
    session: Any,
    ordinary_user: User,
    goexfs: Goexfs,
    goexfs_json: Json,
    daemon: Daemon,
) -> None:
    goexfs("run", "--", "sh", "-c", EDITS, user=ordinary_user, cwd=project)
    before = goexfs_json("diff", user=ordinary_user, cwd=project)
    daemon.restart()
    assert goexfs_json("diff", user=ordinary_user, cwd=project) == before
    daemon.kill()
    daemon.start()
    assert goexfs_json("diff", user=ordinary_user, cwd=project) == before
    goexfs("run", "--", "test", "-e", "moved.sh", user=ordinary_user, cwd=project)


def test_several_roots_at_a_mountpoint_of_ones_own(
    arena: Path, ordinary_user: User, goexfs: Goexfs
) -> None:
    roots = [arena / name for name in ("one", "two", "at")]
    for root in roots:
        root.mkdir()
        (root / "f").write_text("base\n") if root.name != "at" else None
        ordinary_user.own(root)
    one, two, at = roots
    goexfs(
        "mount", "--view", "kernel", one, "--root", two, "--at", at, "--name", "k",
        user=ordinary_user,
    )  # fmt: skip
    assert sorted(os.listdir(at)) == ["one", "two"]
    goexfs("run", "-s", "k", "--", "sh", "-c", f"echo s >> {two}/f", user=ordinary_user)
    assert (at / "two" / "f").read_text() == "base\ns\n"
    assert (two / "f").read_text() == "base\n"
    goexfs("commit", "-s", "k", user=ordinary_user)
    assert (two / "f").read_text() == "base\ns\n"
    assert os.listdir(at) == []


def test_what_it_cannot_do_is_refused_at_the_mount(
    project: Path, tree: Path, goexfs: Goexfs, ordinary_user: User
) -> None:
    done = goexfs("mount", "--view", "kernel", tree, status=1)
    assert "session of root" in done.err
    done = goexfs(
        "mount", "--view", "kernel", "--hide", "private", project, user=ordinary_user, status=1
    )
    assert "--view fuse" in done.err


def test_auto_takes_the_kernel_where_nothing_is_lost(
    project: Path, tree: Path, goexfs_json: Json, ordinary_user: User
) -> None:
    plain = goexfs_json("mount", "--view", "auto", project, "--name", "a", user=ordinary_user)
    assert plain["view"] == "kernel"
    ruled = goexfs_json(
        "mount", "--view", "auto", "--hide", "private", project, "--name", "b", user=ordinary_user
    )
    assert ruled["view"] == "fuse"
    assert goexfs_json("mount", "--view", "auto", tree, "--name", "c")["view"] == "fuse"
