"""``goexfs verify``: the base against what a commit left, a session found, a manifest says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemons import Goexfs, User
from goexfs.cli import manifest

Json = Callable[..., Any]
SCRIPT = """
echo changed >> README.md
rm -r src/deep
mv run.sh moved.sh
ln src/main.py third.py
mkdir -p new/inner && echo new > new/inner/file
chmod 0640 private
rm pipe && mkfifo -m 0600 pipe2
truncate -s 20M sparse
"""
Change = Callable[[Path], object]


@pytest.fixture
def how(tree: Path, ordinary_user: User) -> dict[str, Any]:
    return {"user": ordinary_user, "cwd": tree}


@pytest.fixture
def commit(tree: Path, how: dict[str, Any], goexfs: Goexfs, goexfs_json: Json) -> str:
    goexfs("mount", tree, **how)
    goexfs("run", "--", "sh", "-ec", SCRIPT, **how)
    return str(goexfs_json("commit", **how)["commit"])


def differences(goexfs: Goexfs, *arguments: str, **how: Any) -> dict[str, str]:
    done = goexfs("verify", "--json", *arguments, status=None, **how)
    found = json.loads(done.out)["differences"]
    assert done.status == (1 if found else 0)
    return {each["path"]: each["detail"] for each in found}


def test_a_commit_stands_until_somebody_changes_something(
    commit: str, tree: Path, how: dict[str, Any], goexfs: Goexfs, goexfs_json: Json
) -> None:
    found = goexfs_json("verify", **how)
    assert (found["commit"], found["differences"]) == (commit, [])
    assert found["checked"] > 8
    (tree / "README.md").write_text("mine\n")
    os.utime(tree / "moved.sh", (1, 1))
    (tree / "third.py").unlink()
    (tree / "pipe").write_text("again\n")
    (tree / "unrelated").write_text("new\n")
    (tree / "new" / "inner" / "file").write_text("other\n")
    os.rename(tree / "private", tree / "kept")
    (tree / "private").write_text("another\n")
    assert differences(goexfs, commit, **how) == {
        "README.md": "its contents changed in the base",
        "moved.sh": "its contents changed in the base",
        "third.py": "it is gone",
        "src/main.py": "its attributes or its links changed in the base",
        "pipe": "something is there again",
        "new/inner/file": "its contents changed in the base",
        "private": "the file in the base was replaced by another",
    }


def test_an_undo_is_verified_as_a_commit_is(
    commit: str, tree: Path, how: dict[str, Any], goexfs: Goexfs, goexfs_json: Json
) -> None:
    undo = goexfs_json("undo", **how)["commit"]
    assert undo in goexfs("verify", commit, status=1, **how).err
    assert differences(goexfs, undo, **how) == {}
    assert undo in goexfs("verify", **how).out  # the newest
    (tree / "README.md").write_text("mine\n")
    assert "README.md" in differences(goexfs, undo, **how)


def test_a_session_leaves_what_it_touched_as_it_found_it(
    tree: Path, how: dict[str, Any], goexfs: Goexfs, other_user: User
) -> None:
    goexfs("mount", tree, "--name", "s", **how)
    goexfs("run", "--", "sh", "-ec", SCRIPT, **how)
    assert differences(goexfs, "-s", "s", **how) == {}
    assert "as the session found them" in goexfs("verify", "-s", "s", **how).out
    (tree / "README.md").write_text("mine\n")
    (tree / "dangling").unlink()  # which the session did not touch
    assert differences(goexfs, "-s", "s", **how) == {
        "README.md": "its contents changed in the base"
    }
    goexfs("verify", "-s", "s", user=other_user, status=4)


def test_whose_commit(commit: str, other_user: User, goexfs: Goexfs) -> None:
    goexfs("verify", commit)
    goexfs("verify", commit, user=other_user, status=4)
    goexfs("verify", commit, "-s", "s", status=2)


@pytest.mark.parametrize("quick", [False, True])
def test_a_discard_and_an_undo_against_a_manifest(
    quick: bool, tree: Path, how: dict[str, Any], arena: Path, goexfs: Goexfs
) -> None:
    os.chown(arena, how["user"].uid, how["user"].gid)
    saved = arena / "manifest"
    goexfs("verify", "--save", saved, *(["--quick"] if quick else []), tree, **how)
    goexfs("mount", tree, **how)
    goexfs("run", "--", "sh", "-ec", SCRIPT, **how)
    goexfs("discard", **how)
    assert "as the manifest has them" in goexfs("verify", "--against", saved, **how).out
    goexfs("mount", tree, **how)
    goexfs("run", "--", "sh", "-ec", SCRIPT, **how)
    goexfs("commit", **how)
    found = differences(goexfs, "--against", str(saved), **how)
    assert found["0/src/deep"] == found["0/run.sh"] == "it is gone"
    assert found["0/new/inner/file"] == "it is new"
    assert "mode" in found["0/private"]
    goexfs("undo", **how)
    assert (differences(goexfs, "--against", str(saved), **how) == {}) is not quick


CHANGES: dict[str, tuple[Change, str]] = {
    "type": (lambda top: become_directory(top / "pipe"), "type"),
    "mode": (lambda top: (top / "private").chmod(0o640), "mode"),
    "owner": (lambda top: os.chown(top / "private", 7, 8), "owner"),
    "bytes": (lambda top: rewrite(top / "README.md", "# PROJECT\n"), "sha256"),
    "size": (lambda top: rewrite(top / "README.md", "#\n"), "size, sha256"),
    "mtime": (lambda top: os.utime(top / "private", (1, 1)), "mtime"),
    "target": (lambda top: relink(top / "link", "elsewhere"), "target"),
    "attribute": (lambda top: os.setxattr(top / "README.md", "user.note", b"x"), "attributes"),
    "acl": (
        lambda top: subprocess.run(["setfacl", "-m", "u:9:rw", top / "README.md"], check=True),
        "attributes",
    ),
    "link": (lambda top: split(top / "src" / "same.py"), "links"),
    "hole": (lambda top: fill(top / "sparse"), "sha256, extents"),
}


def become_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def keep(path: Path, change: Callable[[], object]) -> None:
    """Do it with the times as they were."""
    status = os.lstat(path)
    change()
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(path, ns=times, follow_symlinks=False)


def rewrite(path: Path, text: str) -> None:
    keep(path, lambda: path.write_text(text))


def relink(path: Path, target: str) -> None:
    def change() -> None:
        path.unlink()
        path.symlink_to(target)

    keep(path, change)


def split(path: Path) -> None:
    def change() -> None:
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)

    keep(path, change)


def fill(path: Path) -> None:
    keep(path, lambda: path.write_bytes(path.read_bytes()))


def test_a_manifest_misses_nothing(tree: Path, arena: Path) -> None:
    for name, (change, parts) in CHANGES.items():
        saved = str(arena / name)
        manifest.save(saved, [str(tree)], quick=False)
        _, _, then = manifest.load(saved)
        assert list(manifest.compare(then, manifest.take([str(tree)], quick=False))) == []
        change(tree)
        found = dict(manifest.compare(then, manifest.take([str(tree)], quick=False)))
        assert any(parts in each for each in found.values()), (name, found)


def test_what_is_no_manifest(tree: Path, arena: Path, goexfs: Goexfs) -> None:
    saved = arena / "manifest"
    goexfs("verify", "--save", saved, tree)
    goexfs("verify", "--save", saved, tree, status=2)  # never over another
    goexfs("verify", "--save", tree / "inside", tree, status=2)
    assert not (tree / "inside").exists()
    saved.write_text(saved.read_text().replace('"mode":384', '"mode":420'))
    assert "was changed since" in goexfs("verify", "--against", saved, status=2).err
    saved.write_bytes(b"")
    goexfs("verify", "--against", saved, status=2)
    goexfs("verify", "--against", arena / "none", status=4)
