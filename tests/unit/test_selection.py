"""Selections: names before globs, gitignore's globs, exclusions; against git for the globs."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goexfs.errors import Usage
from goexfsd.layer.selection import Glob, Selection, Word, check, expression

PATHS = [b"a.py", b"src/a.py", b"src/deep/b.py", b"src/deep/c.txt", b"docs/x", b"src/[a].py"]


def word(pattern: str, top: bytes = b"") -> Word:
    return Word(pattern, (0, os.fsencode(pattern)), (Glob(0, top, pattern),))


def taken(*patterns: str, without: tuple[str, ...] = (), top: bytes = b"") -> list[bytes]:
    listed = {(0, path) for path in PATHS}
    selection = Selection(
        tuple(word(each, top) for each in patterns), tuple(word(each, top) for each in without)
    )
    chosen, excluded = selection.among(listed), Selection(selection.excluded).among(listed)
    return [
        path
        for path in PATHS
        if chosen.takes(0, path) and not (without and excluded.takes(0, path))
    ]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", [b"a.py", b"src/a.py", b"src/deep/b.py", b"src/[a].py"]),
        ("/*.py", [b"a.py"]),
        ("src/*.py", [b"src/a.py", b"src/[a].py"]),
        ("src/**/*.py", [b"src/a.py", b"src/deep/b.py", b"src/[a].py"]),
        ("**/b.py", [b"src/deep/b.py"]),
        ("s?c/**", PATHS[1:4] + PATHS[5:]),
        ("de*p", PATHS[2:4]),
        ("de*p/", PATHS[2:4]),
        ("[b-d].*", PATHS[2:4]),
        ("[!b-d].py", [b"a.py", b"src/a.py"]),
        ("src/[a].py", [b"src/[a].py"]),  # there is such a name
        (r"\[a].py", [b"src/[a].py"]),
        ("src", PATHS[1:4] + PATHS[5:]),
    ],
)
def test_globs(pattern: str, found: list[bytes]) -> None:
    assert taken(pattern) == found


def test_exclusion() -> None:
    assert taken("src", without=("*.py",)) == [b"src/deep/c.txt"]
    assert taken(without=("src/deep", "docs/*")) == [b"a.py", b"src/a.py", b"src/[a].py"]


def test_taken_from_a_directory_on() -> None:
    assert taken("*.py", top=b"src/deep") == [b"src/deep/b.py"]


def test_bytes_that_are_no_text() -> None:
    assert expression("caf?").match(os.fsdecode(b"caf\xc3\xa9"))
    assert expression("x?y").match(os.fsdecode(b"x\xffy"))
    assert expression(os.fsdecode(b"\xff*")).match(os.fsdecode(b"\xff\xfe\n"))


def test_the_first_word_that_means_nothing_is_known() -> None:
    listed = {(0, path) for path in PATHS}
    assert Selection((word("src"), word("*.rs"))).idle(listed) == "*.rs"
    assert Selection((word("src"), word("*.py"))).idle(listed) is None


def test_a_range_backwards_is_no_glob() -> None:
    with pytest.raises(Usage, match="is no glob"):
        expression("[z-a]")


PIECES = st.sampled_from(["*", "?", "**", "/", "a", "b", ".", "[ab]", "[!a]", r"\*"])


PATTERNS = st.lists(PIECES, min_size=1, max_size=5).map("".join)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PATTERNS, min_size=1, max_size=20))
def test_globs_are_gits(patterns: list[str]) -> None:
    """On ASCII: what is one character to us is one byte to git."""
    names = ["a", "b", ".a", "*", "ab"]
    paths = [*names, *(f"{a}/{b}" for a in names for b in names), "a/b/a", "b/a/ab/.a", "ab/*/b"]
    with tempfile.TemporaryDirectory() as home:
        git(home, "init", "-q")
        for pattern in patterns:
            parts = pattern.split("/")
            if "//" in pattern or "." in parts or not pattern.strip("/"):
                continue
            if any("**" in part and part != "**" for part in parts):
                continue  # where ** is no whole name, git has rules of its own
            Path(home, ".git/info/exclude").write_text(pattern.removesuffix("/") + "\n")
            ours = [path for path in paths if expression(pattern).match(path)]
            asked = "\0".join(paths).encode()
            told = git(home, "check-ignore", "--no-index", "-z", "--stdin", stdin=asked)
            assert ours == [name.decode() for name in told.split(b"\0") if name], pattern


def git(home: str, *arguments: str, stdin: bytes = b"") -> bytes:
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=home, env=env, input=stdin, capture_output=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


HARD = [
    ("*a" * 15 + "*b", "a" * 250),
    ("**/a/" * 12 + "b", "a/" * 200 + "a"),
    ("**/*a*a*/" * 10 + "z", "/".join(["a" * 12] * 60)),
    ("[ab]*" * 16 + "c", "ab" * 120),
]


@pytest.mark.parametrize(("pattern", "path"), HARD)
def test_no_pattern_takes_for_ever(pattern: str, path: str) -> None:
    """Each of them would, if what stands between two stars were tried everywhere."""
    assert expression(pattern).match(path) is None


@pytest.mark.parametrize("pattern", ["[b-a]", "x[a-cz-y]", "[a-\\A]", "[!9-0]"])
def test_a_bad_range_is_seen_without_compiling(pattern: str) -> None:
    for refuse in (check, expression):
        with pytest.raises(Usage, match="no glob"):
            refuse(pattern)


@pytest.mark.parametrize("pattern", ["[a-c-a]", "[-a]", "[a-]", "[]-]", "[\\-a]", "[a", "b-a"])
def test_what_looks_like_a_bad_range(pattern: str) -> None:
    check(pattern)
    expression(pattern)
