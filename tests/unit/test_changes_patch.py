"""Patches: what each kind of change looks like, and what git makes of it."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goexfsd.layer import patch as patches
from goexfsd.layer.changes import differences, open_views
from goexfsd.layer.gitform import blob_id, quote
from goexfsd.layer.lines import hunks
from layering import Root, Session, copy_tree

ODD = [
    b"with space",
    b"tab\there",
    b"new\nline",
    b'quo"te',
    b"back\\slash",
    b"caf\xc3\xa9",
    b"\xff",
]
ODD += [b"-dash", b"\x1b[31m", b"# goexfs"]
OpenSession = Callable[[dict[bytes, bytes]], Session]


@pytest.fixture
def over(tmp_path: Path) -> Iterator[OpenSession]:
    opened: list[Session] = []

    def make(files: dict[bytes, bytes]) -> Session:
        def build(base: bytes) -> None:
            for path, data in files.items():
                real = base + b"/" + path
                os.makedirs(os.path.dirname(real), exist_ok=True)
                Path(os.fsdecode(real)).write_bytes(data)

        opened.append(Session.over(tmp_path, build))
        return opened[-1]

    yield make
    for session in opened:
        session.close()


def patch_of(session: Session, names: tuple[str, ...] = ("r",)) -> bytes:
    layer = os.open(session.layer, os.O_RDONLY | os.O_DIRECTORY)
    base = os.open(session.base, os.O_PATH | os.O_DIRECTORY)
    roots = [Root(index, name) for index, name in enumerate(names)]
    try:
        with open_views(None, layer, roots, [base] * len(roots)) as views:
            return b"".join(patches.patch(views, differences(views)))
    finally:
        os.close(layer)
        os.close(base)


def git_apply(tree: bytes, text: bytes, *options: str) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "apply", "--whitespace=nowarn", *options, "-"]
    done = subprocess.run(command, cwd=tree, input=text, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def contents(tree: bytes) -> dict[bytes, bytes]:
    found = {}
    for here, _, files in os.walk(tree):
        for name in files:
            real = here + b"/" + name
            if stat.S_ISREG(os.lstat(real).st_mode):
                found[real[len(tree) :]] = Path(os.fsdecode(real)).read_bytes()
    return found


def check_both_ways(session: Session) -> bytes:
    """The patch makes the view of the base, and the base of the view; returns it."""
    text = patch_of(session)
    copy = session.home + b"/copy"
    copy_tree(session.base, copy)
    git_apply(copy, text)
    assert contents(copy) == contents(session.model)
    git_apply(copy, text, "-R")
    assert contents(copy) == contents(session.base)
    return text


def test_modified_text(over: OpenSession) -> None:
    session = over({b"f": b"one\ntwo\nthree\n"})
    session.write(b"f", b"one\n2\nthree")
    ids = blob_id(b"one\ntwo\nthree\n"), blob_id(b"one\n2\nthree")
    assert check_both_ways(session) == (
        b"diff --git a/f b/f\n"
        b"index %s..%s 100644\n"
        b"--- a/f\n"
        b"+++ b/f\n"
        b"@@ -1,3 +1,3 @@\n"
        b" one\n"
        b"-two\n"
        b"-three\n"
        b"+2\n"
        b"+three\n"
        b"\\ No newline at end of file\n" % ids
    )


def test_blob_names_are_gits(over: OpenSession) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    command = ["git", "hash-object", "--stdin"]
    done = subprocess.run(command, input=b"some\0data", env=env, capture_output=True, check=True)
    assert blob_id(b"some\0data") == done.stdout.strip()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"x"),
        (b"x", b""),
        (b"x\n", b"x"),
        (b"a\r\nb\r\n", b"a\r\nc\r\n"),
        (b"a\x0bb\x0cc\x85d\n", b"a\x0bb\x0cc\x85e\n"),
        (b"\n\n\n", b"\n\n"),
        (b"# goexfs: no note\n", b"diff --git a/x b/x\n--- a/x\n"),
        (bytes(range(256)), bytes(range(255, -1, -1))),
        (b"\0" * 60_000, b"text\n"),
        (b"text\n", random.Random(1).randbytes(60_000)),
    ],
)
def test_content_there_and_back(over: OpenSession, before: bytes, after: bytes) -> None:
    session = over({b"f": before, b"other": b"x"})
    session.write(b"f", after)
    check_both_ways(session)


def test_many_hunks(over: OpenSession) -> None:
    chance = random.Random(7)
    lines = [b"%d\n" % chance.randrange(50) for _ in range(3000)]
    session = over({b"f": b"".join(lines)})
    for _ in range(60):
        at = chance.randrange(len(lines))
        lines[at : at + chance.randrange(3)] = [b"new %d\n" % at] * chance.randrange(3)
    session.write(b"f", b"".join(lines))
    text = check_both_ways(session)
    assert text.count(b"\n@@ ") > 20


def test_empty_files_come_and_go(over: OpenSession) -> None:
    session = over({b"goes": b"", b"stays": b"x"})
    session.unlink(b"goes")
    session.write(b"comes", b"")
    text = check_both_ways(session)
    assert b"---" not in text


def test_odd_names(over: OpenSession) -> None:
    session = over({name: b"old\n" for name in ODD} | {b"d/" + name: b"x\n" for name in ODD})
    for name in ODD:
        session.write(name, b"new\n")
        session.rename(b"d/" + name, b"d/" + name + b" moved")
        session.write(b"created " + name, b"")
    text = check_both_ways(session)
    assert b"\x1b" not in text
    assert text.isascii()


def test_quoting_is_gits() -> None:
    assert quote(b"plain name") == b"plain name"
    assert quote(b'a\t\n"\\\x01\xff') == b'"a\\t\\n\\"\\\\\\001\\377"'


def test_renames(over: OpenSession) -> None:
    session = over({b"d/f": b"1\n2\n3\n4\n", b"d/s/g": b"same\n", b"d/s/h": b"h\n", b"x": b"x\n"})
    session.rename(b"d", b"e")
    session.write(b"e/f", b"1\n2\n3\nfour\n")
    session.unlink(b"e/s/h")
    session.rename(b"x", b"e/s/x")
    text = check_both_ways(session)
    assert b"rename from d/s/g\nrename to e/s/g\n" in text
    assert b"rename from x\nrename to e/s/x\n" in text
    assert b"deleted file mode 100644" in text


def test_directory_made_anew_below_a_renamed_one(over: OpenSession) -> None:
    session = over({b"d/s/same": b"same\n", b"d/s/other": b"other\n"})
    session.rename(b"d", b"e")
    session.remove(b"e/s")
    session.mkdir(b"e/s")
    session.write(b"e/s/same", b"same\n")
    check_both_ways(session)


def test_swapped_names(over: OpenSession) -> None:
    session = over({b"a/f": b"in a\n", b"b/f": b"in b\n", b"b/g": b"in b too\n"})
    session.rename(b"a", b"t")
    session.rename(b"b", b"a")
    session.rename(b"t", b"b")
    check_both_ways(session)


def test_mode_and_symlink(over: OpenSession) -> None:
    session = over({b"f": b"x\n", b"s/deep": b"x\n"})
    session.chmod(b"f", 0o755)
    session.symlink(b"link", b"s/deep")
    assert patch_of(session) == (
        b"diff --git a/f b/f\n"
        b"old mode 100644\n"
        b"new mode 100755\n"
        b"diff --git a/link b/link\n"
        b"new file mode 120000\n"
        b"index %s..%s\n"
        b"--- /dev/null\n"
        b"+++ b/link\n"
        b"@@ -0,0 +1 @@\n"
        b"+s/deep\n"
        b"\\ No newline at end of file\n" % (b"0" * 40, blob_id(b"s/deep"))
    )


def test_what_git_cannot_say_is_noted(over: OpenSession) -> None:
    session = over({b"f": b"x\n", b"d/f": b"x\n"})
    session.mkfifo(b"pipe")
    session.mkdir(b"empty")
    session.chmod(b"f", 0o4755)
    session.setxattr(b"d/f", b"user.note", b"x")
    session.utime(b"d", 10**18)
    session.write(b"last", b"x\n")
    text = check_both_ways(session)
    notes = [line for line in text.split(b"\n") if line.startswith(b"#")]
    assert notes == [
        b"# goexfs: d: times were set",
        b"# goexfs: d/f: extended attributes differ",
        b"# goexfs: empty: created dir",
        b"# goexfs: f: mode 4755, was 0644",
        b"# goexfs: pipe: created fifo",
    ]


def test_too_large_content_is_noted(over: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "MAX_CONTENT", 100)
    session = over({b"f": b"x" * 101, b"g": b"x" * 101, b"h": b"y\n"})
    session.write(b"f", b"y" * 101)
    session.write(b"h", b"z\n")
    session.rename(b"g", b"moved")
    text = patch_of(session)
    assert b"# goexfs: f: content of 101 bytes is not in this patch\n" in text
    copy = session.home + b"/copy"
    copy_tree(session.base, copy)
    git_apply(copy, text)
    assert contents(copy)[b"/h"] == b"z\n"
    assert contents(copy)[b"/moved"] == b"x" * 101


def test_long_text_goes_as_binary(over: OpenSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "MAX_TEXT", 100)
    session = over({b"f": b"x\n" * 60})
    session.write(b"f", b"y\n" * 60)
    assert b"GIT binary patch" in check_both_ways(session)


def test_several_roots_have_their_names_in_front(over: OpenSession) -> None:
    session = over({b"f": b"x\n"})
    session.write(b"f", b"y\n")
    os.mkdir(session.layer + b"/upper/q")
    text = patch_of(session, ("r", "q"))
    assert text.startswith(b"diff --git a/r/f b/r/f\n")


def test_a_line_diff_of_unlike_files_is_quick() -> None:
    chance = random.Random(3)
    old = [b"%d\n" % chance.randrange(4) for _ in range(20_000)]
    new = [b"%d\n" % chance.randrange(4) for _ in range(20_000)]
    assert b"".join(hunks(old, new))
