"""What its owner may not read or enter in a base: the view answers as the disk does."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bases import make_tree
from daemons import Daemon, User

CALLS = [
    "os.listdir('theirs')",
    "os.stat('theirs/in')",
    "open('theirs/in')",
    "open('theirs/new', 'w')",
    "os.listdir('enter')",
    "open('enter/file').read()",
    "open('enter/file', 'a').write('x')",
    "open('enter/new', 'w').write('n')",
    "open('secret')",
    "open('secret', 'a')",
    "os.chmod('secret', 0o644)",
    "os.unlink('secret')",
    "os.chmod('theirs', 0o755)",
    "os.rename('enter', 'enter2')",
    "os.rename('theirs', 'theirs2')",
    "os.rename('theirs2', 'empty/theirs')",
    "os.setxattr('theirs2', 'user.x', b'1')",
]


def _tree(top: Path, user: User) -> Path:
    make_tree(top, user)
    (top / "theirs").mkdir(mode=0o700)
    (top / "theirs" / "in").write_text("in")
    (top / "secret").write_text("root's")
    (top / "secret").chmod(0o600)
    (top / "enter").mkdir()
    (top / "enter" / "file").write_text("file")
    user.own(top / "enter")
    (top / "enter").chmod(0o311)
    return top


def _answer(user: User, call: str, top: Path) -> str:
    code = f"import os\ntry:\n  {call}\n  print('done')\nexcept OSError as e:\n  print(e.strerror)"
    return subprocess.run(
        ["python3", "-c", code],
        cwd=top,
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_as_on_the_disk_and_committed(
    daemon: Daemon, ext4_image: Path, ordinary_user: User
) -> None:
    """The one difference: whether a directory that one may not list is empty cannot be known."""
    disk = _tree(ext4_image / "disk", ordinary_user)
    tree = _tree(ext4_image / "tree", ordinary_user)

    def run(*arguments: str | Path) -> Any:
        done = daemon.run(*arguments, "--json", user=ordinary_user, cwd=tree)
        assert done.status == 0, done
        return json.loads(done.out)

    view = Path(run("mount", tree)["mountpoint"])
    for call in CALLS:
        assert _answer(ordinary_user, call, view) == _answer(ordinary_user, call, disk), call
    assert "not empty" in _answer(ordinary_user, "os.rmdir('theirs2')", disk)
    assert "denied" in _answer(ordinary_user, "os.rmdir('theirs2')", view)
    assert {(each["kind"], each["path"]) for each in run("diff")["changes"]} == {
        ("deleted", "secret"),
        ("renamed", "theirs2"),
        ("renamed", "enter2"),
        ("modified", "enter2/file"),
        ("created", "enter2/new"),
    }
    run("commit", "-m", "test")
    for name in ("theirs2/in", "enter2/file", "enter2/new"):
        assert (tree / name).read_bytes() == (disk / name).read_bytes()
    assert os.stat(tree / "theirs2").st_uid == 0
    assert not (tree / "secret").exists()
