"""What scripts read and others changed since: told by ``status``, a conflict if asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemons import Goexfs, User

Json = Callable[..., Any]
STRICT = ("commit", "--isolation", "serializable")


@pytest.fixture
def how(goexfs: Goexfs, tree: Path, ordinary_user: User) -> dict[str, Any]:
    """A session that read ``input``, ``read-twice`` and ``both``, and wrote ``output``."""
    found: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    for name in ("input", "read-twice", "both", "unread", "looked-at"):
        (tree / name).write_text(f"{name}\n")
        os.chown(tree / name, ordinary_user.uid, ordinary_user.gid)
    goexfs("mount", tree, user=ordinary_user)
    script = """
        cat input read-twice > output
        cat both >> both.copy; echo more >> both
        ls -l looked-at > /dev/null; : >> unread.not; : < output
    """
    goexfs("run", "--", "sh", "-ec", script, **found)
    goexfs("run", "--", "cat", "read-twice", **found)
    return found


def stale(goexfs_json: Json, how: dict[str, Any]) -> dict[str, str]:
    found = goexfs_json("status", **how)["stale_reads"]
    return {each["path"]: each["detail"] for each in found}


def test_nothing_is_stale_where_nothing_changed(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, how: dict[str, Any]
) -> None:
    (tree / "unread").write_text("changed\n")
    (tree / "looked-at").write_text("changed\n")
    (tree / "input").chmod(0o600)
    assert stale(goexfs_json, how) == {}
    assert goexfs_json(*STRICT, **how)["closed"]


def test_a_changed_input(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, how: dict[str, Any]
) -> None:
    (tree / "input").write_text("another input\n")
    (tree / "read-twice").unlink()
    found = {
        "input": "its contents changed in the base",
        "read-twice": "it was deleted or moved away in the base",
    }
    assert stale(goexfs_json, how) == found
    assert "stale read: project/input: its contents changed" in goexfs("status", **how).out
    told = goexfs(*STRICT, status=3, **how).err
    assert "  read: project/input: its contents changed in the base; the session read it" in told
    refused = goexfs_json(*STRICT, "--on-conflict", "theirs", status=3, **how)
    assert [each["choices"] for each in refused["conflicts"]] == [["mine"], ["mine"]]
    assert not (tree / "output").exists()
    part = goexfs_json(*STRICT, "--resolve", "input=mine", status=3, **how)
    assert [each["path"] for each in part["conflicts"]] == ["read-twice"]
    done = goexfs_json(*STRICT, "--resolve", ".=mine", **how)
    assert {each["path"] for each in done["resolved"]} == set(found)
    assert (tree / "output").read_text() == "input\nread-twice\n"


def test_without_it_a_commit_goes_through(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, how: dict[str, Any]
) -> None:
    (tree / "input").write_text("another input\n")
    assert goexfs_json("commit", **how)["closed"]


def test_what_is_written_too_is_one_conflict(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, how: dict[str, Any]
) -> None:
    (tree / "both").write_text("changed\n")
    found = goexfs_json(*STRICT, status=3, **how)["conflicts"]
    assert [(each["path"], each["reason"]) for each in found] == [("both", "changed")]
    goexfs("discard", **how)


def test_what_a_part_committed_is_not_stale(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, how: dict[str, Any]
) -> None:
    goexfs("commit", "both", **how)
    assert stale(goexfs_json, how) == {}
    (tree / "input").write_text("another input\n")
    assert set(stale(goexfs_json, how)) == {"input"}
    goexfs(*STRICT, status=3, **how)
    goexfs("discard", **how)


def test_a_rewind_takes_back_what_was_read(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, how: dict[str, Any]
) -> None:
    (tree / "input").write_text("another input\n")
    assert set(stale(goexfs_json, how)) == {"input"}
    goexfs("rewind", "0", **how)
    assert stale(goexfs_json, how) == {}
    goexfs("discard", **how)


def test_reads_outside_of_steps_do_not_count(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, how: dict[str, Any]
) -> None:
    view = Path(goexfs_json("status", **how)["session"]["mountpoint"])
    assert (view / "unread").read_text() == "unread\n"
    (tree / "unread").write_text("changed\n")
    assert stale(goexfs_json, how) == {}
    goexfs("discard", **how)
