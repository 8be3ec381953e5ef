"""``goexfs commit --on-conflict``, ``--resolve``: from the script's write to the merged file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemons import Goexfs, User
from manifests import differences, manifest

TEXT = "".join(f"line {number}\n" for number in range(20))
Json = Callable[..., Any]

# Each changes line 2 of a file in one of the ways in which programs do it.
WAYS = {
    "in-place": "sed 's/^line 2$/session/' {0} > /tmp/new; cat /tmp/new 1<> {0}",
    "truncated": "sed 's/^line 2$/session/' {0} > /tmp/new; cat /tmp/new > {0}",
    "renamed-over": "sed -i 's/^line 2$/session/' {0}",
    "made-anew": "cp {0} /tmp/old; rm {0}; sed 's/^line 2$/session/' /tmp/old > {0}",
    "moved-and-made": "mv {0} {0}.orig; sed 's/^line 2$/session/' {0}.orig > {0}; rm {0}.orig",
    "written-beside": "mv {0} {0}.orig; sed 's/^line 2$/session/' {0}.orig > {0}.new;"
    " mv {0}.new {0}; rm {0}.orig",
}


@pytest.fixture
def how(goexfs: Goexfs, tree: Path, ordinary_user: User) -> dict[str, Any]:
    """A session whose script and user changed different lines, in every way."""
    found: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    for name in WAYS:
        (tree / name).write_text(TEXT)
        os.chown(tree / name, ordinary_user.uid, ordinary_user.gid)
    goexfs("mount", tree, user=ordinary_user)
    script = "\n".join(way.format(name) for name, way in WAYS.items())
    goexfs("run", "--", "sh", "-ec", script, **found)
    for number, name in enumerate(WAYS):
        with (tree / name).open("r+") as file:
            text = file.read().replace("line 17\n", f"user {number}\n")
            file.seek(0)
            file.write(text)
            file.truncate()
    return found


def test_merged_however_it_was_written(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, how: dict[str, Any]
) -> None:
    before = manifest(tree)
    told = goexfs("commit", status=3, **how)
    assert f"nothing was committed: {len(WAYS)} conflicts" in told.err
    assert "--resolve PATH=mine|theirs|merge" in told.err
    planned = goexfs_json("commit", "--dry-run", "--on-conflict", "merge", **how)
    assert {each["path"]: each["way"] for each in planned["resolved"]} == dict.fromkeys(
        WAYS, "merge"
    )
    assert differences(before, manifest(tree)) == []
    found = goexfs_json("commit", "--on-conflict", "merge", **how)
    assert found["conflicts"] == []
    assert found["closed"]
    for number, name in enumerate(WAYS):
        merged = TEXT.replace("line 2\n", "session\n").replace("line 17\n", f"user {number}\n")
        assert (tree / name).read_text() == merged, name
    goexfs("undo", **how)
    assert differences(before, manifest(tree)) == []


def test_path_by_path(goexfs: Goexfs, tree: Path, how: dict[str, Any]) -> None:
    one, two, *_ = WAYS
    decided = ["--on-conflict", "merge", "--resolve", f"{one}=mine", "--resolve", f"./{two}=theirs"]
    said = goexfs("commit", *decided, **how).out
    assert f"resolved as mine: project/{one}: " in said
    assert (tree / one).read_text() == TEXT.replace("line 2\n", "session\n")
    assert "session" not in (tree / two).read_text()


def test_bad_resolutions(goexfs: Goexfs, how: dict[str, Any]) -> None:
    assert "PATH=mine" in goexfs("commit", "--resolve", "README.md=ours", status=2, **how).err
    assert "no change" in goexfs("commit", "--resolve", "nowhere=mine", status=4, **how).err
    goexfs("discard", **how)


def test_in_several_roots(
    arena: Path, goexfs: Goexfs, goexfs_json: Json, ordinary_user: User
) -> None:
    """Paths say which root, as they do everywhere."""
    one, two = arena / "one", arena / "two"
    for root in (one, two):
        root.mkdir()
        (root / "a").write_text("base\n")
        for path in (root, root / "a"):
            os.chown(path, ordinary_user.uid, ordinary_user.gid)
    found: dict[str, Any] = {"user": ordinary_user}
    session = goexfs_json("mount", one, "--root", two, **found)["session"]
    how = {**found, "cwd": arena}
    goexfs("run", "-s", session, "--", "sh", "-c", f"echo session | tee {one}/a {two}/a", **how)
    for root in (one, two):
        (root / "a").write_text("user\n")
    ways = ["--resolve", "one/a=mine", "--resolve", f"{two}/a=theirs"]
    goexfs("commit", "-s", session, "--resolve", "one/a=mine", status=3, **how)
    goexfs("commit", "-s", session, *ways, **how)
    assert [(root / "a").read_text() for root in (one, two)] == ["session\n", "user\n"]
