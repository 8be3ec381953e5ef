"""``goexfs commit --dry-run``: the plan that the commit carries out, and nothing done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemons import Goexfs, User
from manifests import differences, manifest

SCRIPT = """
set -e
echo changed >> README.md
echo more >> src/main.py
mv run.sh moved.sh
rm -r src/deep
ln src/main.py third.py
mkdir new && echo new > new/file
chmod 0640 private
"""
Json = Callable[..., Any]


def test_the_plan_is_told_and_nothing_done(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, ordinary_user: User
) -> None:
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    before = manifest(tree)
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "sh", "-c", SCRIPT, **how)
    found = goexfs_json("commit", "--dry-run", **how)
    assert (found["commit"], found["closed"], found["conflicts"]) == (None, False, [])
    plan = {(each["action"], each["path"], each["to"]) for each in found["plan"]}
    assert plan >= {
        ("save", "README.md", None),
        ("stage", "README.md", None),
        ("replace", "README.md", None),
        ("fill", "src/main.py", None),
        ("move", "run.sh", "moved.sh"),
        ("remove", "src/deep", None),
        ("link", "src/main.py", "third.py"),
        ("put", "third.py", None),
        ("put", "new", None),
        ("stage", "new/file", None),
        ("set", "private", None),
    }
    order = [each["action"] for each in found["plan"]]
    assert order.index("stage") < order.index("replace") < order.index("set")
    assert differences(before, manifest(tree)) == []
    assert not any(found["remaining"].values())
    part = goexfs_json("commit", "--dry-run", "README.md", **how)
    assert part["remaining"]["modified"] == found["applied"]["modified"] - 1
    assert part["remaining"]["created"] == found["applied"]["created"]
    said = goexfs("commit", "--dry-run", "README.md", **how).out
    assert "replace   README.md\n" in said
    assert "dry run, nothing was done: 1 modified" in said
    assert differences(before, manifest(tree)) == []
    assert goexfs_json("commit", **how)["applied"] == found["applied"]


def test_conflicts_are_told(goexfs: Goexfs, tree: Path, ordinary_user: User) -> None:
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "sh", "-c", "echo x >> README.md", **how)
    (tree / "README.md").write_text("mine\n")
    said = goexfs("commit", "--dry-run", status=3, **how)
    assert "changed: project/README.md" in said.err
    goexfs("discard", **how)


def test_nothing_to_do(goexfs: Goexfs, tree: Path, ordinary_user: User) -> None:
    how: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    goexfs("mount", tree, user=ordinary_user)
    assert "nothing to commit" in goexfs("commit", "--dry-run", **how).out
    goexfs("discard", **how)
