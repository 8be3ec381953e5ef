"""Conflicts decided where the session sees a snapshot."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from bases import make_tree
from daemons import MakeDaemon, User

TEXT = "".join(f"line {number}\n" for number in range(20))


class Session:
    def __init__(self, make_daemon: MakeDaemon, image: Path, user: User) -> None:
        store = image / "store"
        store.mkdir(mode=0o700)
        self.daemon = make_daemon(f'store = "{store}"\n')
        self.user = user
        home = image / "home"
        home.mkdir()
        self.root = make_tree(home / "project", user)
        for name in ("a", "e/sub/z", "e/other", "deleted"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(TEXT)
        for path in self.root.rglob("*"):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
        self("mount", self.root)

    def __call__(self, verb: str, *arguments: str | Path, status: int = 0) -> Any:
        done = self.daemon.run(verb, "--json", *arguments, user=self.user, cwd=self.root)
        assert done.status == status, f"{done.out}{done.err}\n{self.daemon.said()[-3000:]}"
        return json.loads(done.out) if done.out else None

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def session(btrfs_image: Path, make_daemon: MakeDaemon, ordinary_user: User) -> Session:
    return Session(make_daemon, btrfs_image, ordinary_user)


def test_merge_mine_and_theirs(session: Session) -> None:
    # Appending reads nothing; sed and cat do.
    script = "sed -i 's/^line 2$/session/' a e/sub/z; echo more >> deleted; cat e/other > new"
    session("run", "--", "sh", "-ec", script)
    session.edit("a", "line 17\n", "user\n")
    session.edit("e/other", "line 17\n", "user\n")
    (session.root / "deleted").unlink()
    (session.root / "untouched").write_text("user\n")
    stale = {each["path"] for each in session("status")["stale_reads"]}
    assert stale == {"a", "e/other"}
    found = session("commit", "--on-conflict", "merge", status=3)["conflicts"]
    assert [(each["path"], each["reason"]) for each in found] == [("deleted", "deleted")]
    done = session("commit", "--on-conflict", "merge", "--resolve", "deleted=theirs")
    assert {each["path"]: each["way"] for each in done["resolved"]} == {
        "a": "merge",
        "deleted": "theirs",
    }
    merged = TEXT.replace("line 2\n", "session\n").replace("line 17\n", "user\n")
    assert (session.root / "a").read_text() == merged
    assert not (session.root / "deleted").exists()
    assert (session.root / "untouched").read_text() == "user\n"


def test_a_directory_that_is_gone_comes_back_for_mine(session: Session) -> None:
    session("run", "--", "sh", "-ec", "echo session >> e/sub/z")
    shutil.rmtree(session.root / "e")
    session("commit", status=3)
    session("commit", "--resolve", "e/sub/z=mine")
    assert (session.root / "e/sub/z").read_text() == TEXT + "session\n"
    assert not (session.root / "e/other").exists()
