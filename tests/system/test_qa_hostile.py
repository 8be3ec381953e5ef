"""What a script may do to make a review fail: the review, and either decision, work all the same.

Each script also runs on a plain copy; a commit must make the base equal to that copy.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemons import Goexfs, User
from manifests import Manifest, differences

SCRIPTS = {
    "types change and change back": """
        rm -r src; echo file > src; rm src; mkdir src; echo q > src/q
        rm README.md; mkdir README.md; echo in > README.md/in
        rm private; ln -s /etc private; rm -r empty; mkfifo empty
    """,
    "renames in circles": """
        for i in 1 2 3 4 5 6; do
            mv README.md b; mv b README.md; mv src ss; mv ss src
            mv src/deep e; mv e src/deep; mv private src/; mv src/private .
        done
        mv README.md x; mv private README.md; mv x private
        mv src x; mkdir src; mv x src/src; mv src/src/deep .
    """,
    "sockets, fifos and odd names": """
        python3 - <<'END'
import os, socket
socket.socket(socket.AF_UNIX).bind("socket")
os.mkfifo("fifo")
os.mkdir(b"n" * 255)
for name in (b"n" * 255 + b"/" + b"m\\xff" * 100, b"-rf", b"\\x1b[2J\\n\\t", b".wh.README.md",
             b".wh..wh..opq", "\\u202eabc".encode()):
    with open(name, "wb") as file:
        file.write(b"x")
END
    """,
    "forged markers": """
        python3 - <<'END'
import os
os.setxattr("README.md", "user.overlay.opaque", b"y")
os.setxattr("src", "user.overlay.opaque", b"y")
os.setxattr("src", "user.overlay.redirect", b"/etc")
assert "main.py" in os.listdir("src")
END
    """,
    "modes that keep their owner out": """
        chmod 000 README.md src
        mkdir new; echo z > new/z; chmod 000 new
        mkdir only-enter; echo z > only-enter/z; chmod 100 only-enter
        mkdir only-list; echo z > only-list/z; chmod 400 only-list
        echo w > write-only; chmod 200 write-only
    """,
}


def _without_times(found: Manifest) -> Manifest:
    return {
        name: dataclasses.replace(entry, mtime_ns=0, extents=()) for name, entry in found.items()
    }


@pytest.fixture(params=SCRIPTS)
def script(request: pytest.FixtureRequest) -> str:
    return SCRIPTS[request.param]


def test_a_hostile_script_is_reviewed_and_decided(
    goexfs: Goexfs,
    tree: Path,
    arena: Path,
    ordinary_user: User,
    manifest: Callable[..., Manifest],
    script: str,
) -> None:
    mine: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    before = manifest(tree)
    copy = arena / "copy"
    subprocess.run(["cp", "-a", tree, copy], check=True)
    subprocess.run(
        ["setpriv", "--reuid", str(ordinary_user.uid), "--regid", str(ordinary_user.gid),
         "--clear-groups", "sh", "-ec", script],
        cwd=copy,
        check=True,
    )  # fmt: skip

    goexfs("mount", tree, user=ordinary_user)
    try:
        goexfs("run", "--", "sh", "-ec", script, **mine)
        goexfs("status", **mine)
        for form in ("--json", "--stat", "--name-status"):
            goexfs("diff", form, **mine)
        goexfs("rewind", "0", **mine)
        assert goexfs("diff", "--name-status", **mine).out == ""
        goexfs("rewind", "1", **mine)
    finally:
        goexfs("discard", **mine)
    assert differences(before, manifest(tree)) == []

    goexfs("mount", tree, user=ordinary_user)
    try:
        goexfs("run", "--", "sh", "-ec", script, **mine)
        goexfs("commit", **mine)
    finally:
        goexfs("discard", status=None, **mine)
    want, got = _without_times(manifest(copy)), _without_times(manifest(tree))
    assert differences(want, got) == []
    shutil.rmtree(copy)


def test_a_whiteout_cannot_be_forged(goexfs: Goexfs, tree: Path, ordinary_user: User) -> None:
    mine: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "mknod", "README.md.2", "c", "0", "0", status=1, **mine)
    assert goexfs("diff", "--name-status", **mine).out == ""
    goexfs("discard", **mine)


def test_paths_beyond_path_max(goexfs: Goexfs, tree: Path, ordinary_user: User) -> None:
    mine: dict[str, Any] = {"cwd": tree, "user": ordinary_user}
    dig = """if True:
        import os
        for _ in range(40):
            os.mkdir("D" * 200)
            os.chdir("D" * 200)
        open("bottom", "w").write("x")
    """
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "python3", "-c", dig, **mine)
    assert len(goexfs("diff", "--name-status", **mine).out.splitlines()) == 41
    goexfs("commit", **mine)
    at = os.open(tree, os.O_PATH)
    for _ in range(40):
        below = os.open("D" * 200, os.O_PATH, dir_fd=at)
        os.close(at)
        at = below
    assert os.stat("bottom", dir_fd=at).st_size == 1
    os.close(at)
    goexfs("mount", tree, user=ordinary_user)
    goexfs("run", "--", "rm", "-r", "D" * 200, **mine)
    goexfs("commit", **mine)
    assert not (tree / ("D" * 200)).exists()
