"""A commit cut off together with its daemon: who says so, and ``goexfs recover``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon, Done, Goexfs, User
from goexfs.protocol import Summary
from goexfsd.__main__ import CATALOG
from goexfsd.catalog import CommitRow, open_catalog
from manifests import differences, manifest

MANY = "echo more >> README.md; rm many/*"
IN_APPLY = "90"
"""A fault point past the intent, in the commit as in its recovery."""


def recover(daemon: Daemon, *more: str) -> Done:
    where = ("--state-dir", daemon.state, "--runtime-dir", daemon.runtime)
    config = daemon.directory / "goexfsd.toml"
    return daemon.run("recover", *more, *where, "--config", config)


def cut_off(
    daemon: Daemon, goexfs: Goexfs, tree: Path, user: User, patch: pytest.MonkeyPatch
) -> None:
    """A commit is applied in part, and the daemon is gone."""
    how: dict[str, Any] = {"cwd": tree, "user": user}
    (tree / "many").mkdir()
    for number in range(60):
        (tree / "many" / str(number)).write_text("old\n")
    user.own(tree / "many")
    daemon.stop()
    with patch.context() as armed:
        armed.setenv("GOEXFS_FAULT", IN_APPLY)
        daemon.start()
    goexfs("mount", tree, user=user)
    goexfs("run", "--", "sh", "-c", MANY, **how)
    goexfs("commit", status=1, **how)
    assert daemon.process is not None
    daemon.stop()


def test_it_is_told_and_finished_without_the_daemon(
    daemon: Daemon,
    goexfs: Goexfs,
    tree: Path,
    ordinary_user: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cut_off(daemon, goexfs, tree, ordinary_user, monkeypatch)
    for user in (ordinary_user, None):
        said = daemon.run("status", cwd=tree / "src", user=user)
        assert said.status == 7
        assert "is pending" in said.err
        assert "goexfs recover" in said.err
    assert "is pending" not in daemon.run("status", cwd="/").err
    assert daemon.run("recover", user=ordinary_user).status == 5
    done = recover(daemon, "--json")
    assert done.status == 0, done
    (settled,) = json.loads(done.out)["settled"]
    assert settled["outcome"] == "forward"
    assert settled["roots"] == [str(tree)]
    assert list((tree / "many").iterdir()) == []
    assert (tree / "README.md").read_text().endswith("more\n")
    after = manifest(tree)
    assert "no commit is pending" in recover(daemon).out
    daemon.start()
    assert differences(after, manifest(tree)) == []
    goexfs("undo", cwd=tree, user=ordinary_user)
    assert len(list((tree / "many").iterdir())) == 60


def test_a_commit_whose_place_never_reached_the_disk_is_forgotten(
    daemon: Daemon, goexfs: Goexfs, tree: Path, ordinary_user: User
) -> None:
    """Power went after the catalog named it, before the store's disk had its directory."""
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    sid = json.loads(goexfs("mount", "--json", tree, user=ordinary_user).out)["session"]
    goexfs("run", "--", "sh", "-c", "echo more >> README.md", **how)
    daemon.stop()
    catalog = open_catalog(daemon.state / CATALOG)
    row = catalog.session(sid)
    assert row is not None
    uid, roots = row.uid, (str(tree),)
    with catalog.together():
        catalog.set_session(row, state="committing")
        catalog.add_commit(
            CommitRow("c-lost", sid, uid, "", "staging", False, 1.0, None, Summary(), 1, roots)
        )
    catalog.close()
    daemon.start()
    goexfs("commit", **how)
    assert (tree / "README.md").read_text().endswith("more\n")
    assert json.loads(goexfs("log", "-s", sid, "--json", **how).out)["commits"][0]["commit"] != (
        "c-lost"
    )


def test_recover_is_refused_while_a_daemon_runs(daemon: Daemon) -> None:
    done = recover(daemon)
    assert done.status == 1
    assert "another goexfsd uses the state directory" in done.err


def test_a_commit_that_cannot_be_finished_is_named(
    daemon: Daemon,
    goexfs: Goexfs,
    tree: Path,
    ordinary_user: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its root is somewhere else: nothing is opened over it, doctor says why."""
    cut_off(daemon, goexfs, tree, ordinary_user, monkeypatch)
    elsewhere = tree.with_name("elsewhere")
    tree.rename(elsewhere)
    tree.mkdir(mode=0o777)
    done = recover(daemon)
    assert done.status == 1
    assert "still pending" in done.out
    daemon.start()
    said = goexfs("mount", tree, user=ordinary_user, status=1)
    assert "is pending" in said.err
    checks = json.loads(daemon.run("doctor", "--json").out)["checks"]
    (check,) = [check for check in checks if check["name"] == "commits"]
    assert not check["ok"]
    assert str(tree) in check["detail"]
    daemon.stop()
    tree.rmdir()
    elsewhere.rename(tree)
    assert recover(daemon).status == 0
    assert list((tree / "many").iterdir()) == []
    daemon.start()
