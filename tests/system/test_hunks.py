"""``goexfs commit --patch`` and ``--hunks``: a part goes into the base, the rest stays."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import goexfs as library
from daemons import Daemon, Goexfs, User

Json = Callable[..., Any]
LINES = [f"line {number}\n" for number in range(1, 41)]

SCRIPT = r"""
set -e
sed -i -e '2s/.*/second/' -e '20d' -e '38a more' text
printf 'caf\351\r\nx' > latin
chmod +x run.sh
rm README.md
printf 'new\n' > new
"""


def prepare(goexfs: Goexfs, tree: Path, user: User) -> dict[str, Any]:
    (tree / "text").write_text("".join(LINES))
    (tree / "latin").write_bytes(b"caf\xe8\r\nx\n")
    (tree / "run.sh").chmod(0o644)
    user.own(tree)
    how: dict[str, Any] = {"cwd": tree, "user": user}
    goexfs("mount", tree, user=user)
    goexfs("run", "--", "sh", "-c", SCRIPT, **how)
    return how


def test_an_edited_patch(
    goexfs: Goexfs, goexfs_json: Json, tree: Path, ordinary_user: User
) -> None:
    how = prepare(goexfs, tree, ordinary_user)
    text = goexfs("diff", "text", "new", **how).out
    head, first, _, third = text[text.index("diff --git a/text") :].split("@@ -")
    assert "new" in text[: text.index("diff --git a/text")]
    edited = head + "@@ -" + first.replace("+second\n", "+2\n") + "@@ -" + third
    patch = tree.parent / "patch"
    patch.write_text(edited)
    patch.chmod(0o644)
    planned = goexfs_json("commit", "--dry-run", "--patch", patch, **how)
    assert planned["applied"]["modified"] == 1
    told = goexfs("commit", "--patch", patch, **how).out
    assert "committed 1 modified" in told
    assert "left in the session: 1 deleted, 1 created, 2 modified, 1 metadata" in told
    want = [*LINES[:1], "2\n", *LINES[2:38], "more\n", *LINES[38:]]
    assert (tree / "text").read_text() == "".join(want)
    left = goexfs("diff", "text", **how).out
    body = left[left.index("@@") :].splitlines()
    assert [line for line in body if line[:1] in "+-"] == ["-2", "+second", "-line 20"]
    assert "hunk 1 of text does not fit" in goexfs("commit", "--patch", patch, status=2, **how).err
    assert goexfs("undo", **how).status == 0
    assert (tree / "text").read_text() == "".join(LINES)


def test_bytes_and_bad_patches(
    goexfs: Goexfs, tree: Path, ordinary_user: User, daemon: Daemon
) -> None:
    how = prepare(goexfs, tree, ordinary_user)
    for text, status, says in (
        ("nonsense", 2, "the patch cannot be read at line 1"),
        ("diff --git a/nowhere b/nowhere\nold mode 100644\nnew mode 100755\n", 4, "not changed"),
        ("# goexfs: text: owner 1:1, was 0:0\ndiff --git a/new b/new\n", 2, ""),
    ):
        done = goexfs("commit", "--patch", "-", input=text, status=None, **how)
        if says:
            assert (done.status, says in done.err) == (status, True), done
    assert goexfs("commit", "--patch", "-", "text", status=2, **how).err
    with library.connect(daemon.socket) as client:
        session = client.ls()[0]
        whole = client.patch("latin", "run.sh", session=session)
        assert b"\xe9" in whole
        made = client.commit(patch=whole, session=session)
        assert (made.applied.modified, made.applied.metadata) == (1, 1)
    assert (tree / "latin").read_bytes() == b"caf\xe9\r\nx"
    assert (tree / "run.sh").stat().st_mode & 0o777 == 0o755


def test_asking(goexfs: Goexfs, tree: Path, ordinary_user: User) -> None:
    how = prepare(goexfs, tree, ordinary_user)
    # README.md: no; latin: no; new: yes; run.sh: no; text: split needs none; y, n, then quit
    done = goexfs("commit", "--hunks", input="n\nn\ny\nn\n?\ny\nn\nq\n", **how)
    assert "Commit this hunk [y,n,q,a,d,e,?]?" in done.err
    assert "d - leave this and all that follows in this file" in done.err
    assert "committed 1 created, 1 modified" in done.out
    assert (tree / "text").read_text() == "".join([LINES[0], "second\n", *LINES[2:]])
    assert (tree / "new").exists()
    assert (tree / "README.md").exists()
    before = (tree / "text").read_bytes()
    ended = goexfs("commit", "--hunks", input="y\n", status=None, **how)
    assert ended.status == -signal.SIGINT
    assert "nothing to commit" in goexfs("commit", "--hunks", "text", input="q\n", **how).out
    assert (tree / "text").read_bytes() == before
    goexfs("commit", "--hunks", input="a\n" * 9, **how)


ASK = """
import json, socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
commit = {"jsonrpc": "2.0", "id": 1, "method": "commit", "params": {"cwd": sys.argv[2]}}
stop = {"jsonrpc": "2.0", "method": "signal", "params": {"request": 1, "name": "INT"}}
sock.sendall(b"".join(json.dumps(each).encode() + b"\\n" for each in (commit, stop)))
for line in sock.makefile("rb"):
    if b'"id"' in line:
        print(line.decode())
        break
"""


def test_a_signal_stops_it_or_the_answer_says_that_it_is_done(
    goexfs: Goexfs, tree: Path, ordinary_user: User, daemon: Daemon
) -> None:
    how = prepare(goexfs, tree, ordinary_user)
    before = (tree / "text").read_bytes()
    done = subprocess.run(
        ["/usr/bin/python3", "-c", ASK, str(daemon.socket), str(tree)],
        user=ordinary_user.uid,
        group=ordinary_user.gid,
        extra_groups=(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    answer = json.loads(done.stdout)
    assert ("error" in answer) == ((tree / "text").read_bytes() == before)
    if "error" in answer:
        assert answer["error"]["data"]["code"] == "commit_failed"
        assert "nothing was changed" in answer["error"]["message"]
        goexfs("commit", **how)  # nothing of it is left in the way
    assert (tree / "new").exists()
