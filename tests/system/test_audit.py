"""The audit log of a real daemon: who did what; owners see their own; a crash loses no commit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import goexfs as library
from daemons import Daemon, Goexfs, User

Json = Callable[..., Any]


def test_everything_that_was_done_is_there(
    tree: Path,
    ordinary_user: User,
    other_user: User,
    daemon: Daemon,
    goexfs: Goexfs,
    goexfs_json: Json,
) -> None:
    how: dict[str, Any] = {"user": ordinary_user, "cwd": tree}
    session = goexfs_json("mount", tree, "--name", "s", **how)["session"]
    goexfs("run", "-s", "s", "--", "sh", "-c", "echo 1 > one; exit 3", status=3, **how)
    seen = goexfs_json("diff", "-s", "s", **how)
    goexfs("fork", "-s", "s", **how)
    goexfs("rewind", "-s", "s", "1", **how)
    goexfs("status", "-s", session, user=other_user, status=5)
    goexfs("checkpoint", "-s", session)  # root, in the user's session
    committed = goexfs_json("commit", "-s", "s", **how)
    goexfs("undo", committed["commit"], **how)
    goexfs("discard", "-s", "s-2", **how)
    assert seen["sha256"] == committed["sha256"]

    mine = goexfs_json("audit", **how)["entries"]
    found = [(each["what"], each["uid"], each["result"]) for each in mine]
    uid = ordinary_user.uid
    assert found == [
        ("mount", uid, "ok"),
        ("run", uid, "ok"),
        ("diff", uid, "ok"),
        ("fork", uid, "ok"),
        ("rewind", uid, "ok"),
        ("status", other_user.uid, "denied"),
        ("checkpoint", 0, "ok"),
        ("applied", None, "ok"),
        ("commit", uid, "ok"),
        ("applied", None, "ok"),
        ("undo", uid, "ok"),
        ("discard", uid, "ok"),
    ]
    said = [each["said"] for each in mine]
    assert (said[1]["step"], said[1]["status"], said[1]["policy"]) == ("1", "3", "default")
    assert len(said[1]["policy_sha256"]) == len(said[1]["command_sha256"]) == 64
    assert said[2]["changes_sha256"] == said[7]["changes_sha256"] == said[8]["changes_sha256"]
    assert said[9]["undoes"] == committed["commit"]
    (theirs,) = goexfs_json("audit", user=other_user)["entries"]
    assert theirs["result"] == "denied"
    everything = goexfs_json("audit", "--verify")
    assert everything["entries"][0]["what"] == "start"
    assert everything["checked"] == len(everything["entries"])
    assert len(goexfs_json("audit", "-s", session, "-n", "3", **how)["entries"]) == 3

    (log,) = (daemon.state / "audit").iterdir()
    text = log.read_text()
    log.write_text(text.replace('"status":3', '"status":0'))
    done = goexfs("audit", "--verify", status=1, **how)
    assert "is not what it was" in done.err
    assert json.loads(goexfs("audit", "--verify", "--json", status=1).out)["problems"]


def test_a_killed_daemon_forgets_no_commit(daemon: Daemon, tree: Path) -> None:
    client = library.connect(daemon.socket)
    session = client.mount(tree)
    client.run(["touch", "new"], session=session)
    commit = client.commit(session=session).commit
    daemon.kill()
    daemon.start()
    found = client.audit(verify=True)
    assert found.problems == []
    applied = [each.said["commit"] for each in found.entries if each.what == "applied"]
    assert applied == [commit]
    assert [each.what for each in found.entries][-1] == "start"
