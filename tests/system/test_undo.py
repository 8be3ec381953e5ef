"""``goexfs undo`` by a real daemon: who may, what is meant, conflicts, crashes, undo of undo."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon, Goexfs, MakeDaemon, User
from manifests import Manifest, differences, manifest

SCRIPT = """
set -e
echo changed >> README.md
rm -r src/deep
mv run.sh moved.sh
ln src/main.py third.py
mkdir -p new/inner && echo new > new/inner/file
chmod 0640 private
rm pipe && mkfifo -m 0600 pipe2
setfattr -n user.more -v x README.md
truncate -s 20M sparse
"""
Json = Callable[..., Any]


@pytest.fixture
def committed(goexfs: Goexfs, goexfs_json: Json, tree: Path, ordinary_user: User) -> Committed:
    return Committed(goexfs, goexfs_json, tree, ordinary_user)


class Committed:
    """A tree to which a session was committed, with the manifests around it."""

    def __init__(self, goexfs: Goexfs, as_json: Json, tree: Path, user: User) -> None:
        self.goexfs, self.as_json, self.tree, self.user = goexfs, as_json, tree, user
        self.before = manifest(tree)
        self.id = self.commit(SCRIPT)
        self.after = manifest(tree)

    def commit(self, script: str) -> str:
        how: dict[str, Any] = {"cwd": self.tree, "user": self.user}
        self.goexfs("mount", self.tree, user=self.user)
        self.goexfs("run", "--", "sh", "-ec", script, **how)
        done = self.as_json("commit", "-m", "all of it", **how)
        assert done["closed"], done
        found: str = done["commit"]
        return found

    def undo(self, *arguments: str, **how: Any) -> Any:
        return self.as_json("undo", *arguments, **{"cwd": self.tree, "user": self.user, **how})

    def expect(self, wanted: Manifest) -> None:
        assert differences(wanted, manifest(self.tree)) == []


def test_undo_undo_of_undo_and_so_on(committed: Committed) -> None:
    undone = committed.undo()
    assert undone["undone"] == committed.id
    assert undone["losses"] == []
    committed.expect(committed.before)
    redone = committed.undo(undone["commit"])
    committed.expect(committed.after)
    again = committed.undo()
    assert again["undone"] == redone["commit"]
    committed.expect(committed.before)
    assert committed.undo(committed.id, status=1)["error"]["code"] == "invalid_state"
    assert committed.undo(status=4)["error"]["code"] == "not_found"


def test_undo_walks_back_over_commits(committed: Committed) -> None:
    second = committed.commit("echo more >> README.md; rm third.py; touch moved.sh; mv new newer")
    assert committed.undo()["undone"] == second
    committed.expect(committed.after)
    assert committed.undo()["undone"] == committed.id
    committed.expect(committed.before)


def test_what_changed_since_is_a_conflict(committed: Committed) -> None:
    tree = committed.tree
    (tree / "README.md").write_text("mine now\n")
    (tree / "new" / "stranger").write_text("put here since\n")
    (tree / "run.sh").write_text("in the way\n")
    (tree / "moved.sh").unlink()
    now = manifest(tree)
    found = committed.undo(status=3)
    assert found["commit"] is None
    assert {(each["path"], each["reason"]) for each in found["conflicts"]} == {
        ("README.md", "changed"),
        ("new/stranger", "created"),
        ("run.sh", "created"),
        ("moved.sh", "deleted"),
    }
    committed.expect(now)
    said = committed.goexfs("undo", cwd=tree, user=committed.user, status=3)
    assert "was not undone: 4 conflicts" in said.err


def test_changes_beside_it_survive(committed: Committed) -> None:
    (committed.tree / "mine").write_text("my own\n")
    (committed.tree / "empty" / "mine").write_text("my own\n")
    committed.undo()
    assert (committed.tree / "mine").read_text() == "my own\n"
    assert (committed.tree / "empty" / "mine").read_text() == "my own\n"
    left = manifest(committed.tree)
    for name in (b"mine", b"empty/mine"):
        del left[name]
    assert {name.split(":")[0] for name in differences(committed.before, left)} == {".", "empty"}


def test_nobody_else_may(committed: Committed, other_user: User) -> None:
    for arguments in ((committed.id,), ()):
        found = committed.undo(*arguments, user=other_user, cwd="/", status=4)
        assert found["error"]["code"] == "not_found"
    committed.expect(committed.after)
    committed.undo(committed.id, user=None, cwd="/")  # root
    committed.expect(committed.before)
    owner = (committed.tree / "README.md").stat().st_uid
    assert owner == committed.user.uid


def test_a_part_is_undone_while_the_session_goes_on(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, ordinary_user: User
) -> None:
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    before = manifest(tree)
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "sh", "-c", "echo x >> README.md; echo y > y", **how)
    part = goexfs_json("commit", "README.md", **how)
    assert goexfs_json("undo", **how)["undone"] == part["commit"]
    assert differences(before, manifest(tree)) == []
    log = goexfs_json("log", **how)
    assert [each["undone_by"] is None for each in log["commits"]] == [False, True]
    assert goexfs_json("commit", **how)["applied"]["created"] == 1
    assert (tree / "y").read_text() == "y\n"


def test_the_log_says_what_undid_what(committed: Committed) -> None:
    undone = committed.undo("-m", "a mistake")
    session = undone["session"]
    log = committed.goexfs("log", "-s", session, user=committed.user)
    assert f"undoes {committed.id}: a mistake" in log.out
    assert "undone" in log.out


def test_undo_survives_the_daemon(committed: Committed, daemon: Daemon) -> None:
    daemon.stop()
    daemon.start()
    assert committed.undo()["undone"] == committed.id
    committed.expect(committed.before)


def test_a_missing_root_is_told(committed: Committed) -> None:
    moved = committed.tree.with_name("elsewhere")
    os.rename(committed.tree, moved)
    try:
        assert committed.undo(committed.id, cwd="/", status=4)["error"]["code"] == "not_found"
        committed.tree.mkdir()
        assert committed.undo(committed.id, cwd="/", status=4)["error"]["code"] == "not_found"
    finally:
        shutil.rmtree(committed.tree, ignore_errors=True)
        os.rename(moved, committed.tree)
    committed.undo()
    committed.expect(committed.before)


@pytest.mark.parametrize("point", [3, 90])
def test_an_undo_that_is_cut_off_is_settled_at_the_next_start(
    committed: Committed, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    """Worker and recovery die; the session is long over, so there is no layer to go back to."""
    many = committed.commit("for i in $(seq 60); do echo $i > $i; done")
    everything = manifest(committed.tree)
    daemon.stop()
    with monkeypatch.context() as patch:
        patch.setenv("GOEXFS_FAULT", str(point))
        daemon.start()
    said = committed.undo(status=1)["error"]
    assert said["code"] == "commit_failed"
    decided = "restart the daemon" in str(said["hint"])
    daemon.stop()
    daemon.start()
    assert decided == (point > 60)
    committed.expect(committed.after if decided else everything)
    if not decided:
        assert committed.undo()["undone"] == many
    assert committed.undo()["undone"] == committed.id
    committed.expect(committed.before)


def test_before_images_are_kept_as_configured(
    make_daemon: MakeDaemon, tree: Path, ordinary_user: User
) -> None:
    daemon = make_daemon("[store]\nsize = 536870912\n[undo]\ncommits = 1\ndays = 2\n")
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    found = []
    for text in ("one", "two"):
        assert daemon.run("mount", tree, user=ordinary_user).status == 0
        assert daemon.run("run", "--", "sh", "-c", f"echo {text} >> README.md", **how).status == 0
        found.append(json.loads(daemon.run("commit", "--json", **how).out))
    old, new = (
        json.loads(daemon.run("log", "--json", "-s", each["session"], **how).out)["commits"][0]
        for each in found
    )
    assert (old["undo_until"], old["before_bytes"]) == (None, 0)
    assert new["undo_until"] == pytest.approx(new["created"] + 2 * 86400)
    assert 0 < new["before_bytes"] <= 64 * 1024
    said = daemon.run("log", "-s", found[0]["session"], **how).out
    assert "cannot be undone any more" in said
    assert "undo until 2" in daemon.run("log", "-s", found[1]["session"], **how).out
    refused = daemon.run("undo", found[0]["commit"], **how)
    assert refused.status == 1
    assert "no longer kept" in refused.err
    assert daemon.run("undo", **how).status == 0
    assert "two" not in (tree / "README.md").read_text()
    assert daemon.run("undo", **how).status == 4
