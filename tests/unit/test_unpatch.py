"""Patches read back: what is printed is read, what was edited is taken or refused with its line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.errors import Usage
from goexfsd.layer.gitform import quote
from goexfsd.layer.lines import hunks, split
from goexfsd.layer.unpatch import Section, note_readings, parse, put

HEAD = b"diff --git a/f b/f\nindex 1..2 100644\n--- a/f\n+++ b/f\n"
OLD = b"".join(b"line %d\n" % number for number in range(1, 21))


def section(body: bytes) -> Section:
    (found,) = parse(HEAD + body).sections
    return found


def result(body: bytes, old: bytes = OLD) -> bytes:
    return put(old, section(body).hunks, "f")


def test_counts_are_not_believed() -> None:
    body = b"@@ -2,7 +2,9 @@ def f():\n line 2\n-line 3\n+three\n line 4\n"
    assert result(body) == OLD.replace(b"line 3\n", b"three\n")


def test_spaces_that_an_editor_took_are_context() -> None:
    assert result(b"@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n", b"a\n\nb\n") == b"a\n\nc\n"
    assert result(b"@@ -1,1 +1,1 @@\n-a\n+b\n\n\n# goexfs: f: times were set\n", b"a\n") == b"b\n"


def test_no_newline_at_the_end() -> None:
    mark = b"\\ No newline at end of file\n"
    assert result(b"@@ -1 +1 @@\n-a\n" + mark + b"+a\n", b"a") == b"a\n"
    assert result(b"@@ -1 +1 @@\n-a\n+a\n" + mark, b"a\n") == b"a"
    with pytest.raises(Usage, match="no newline"):
        result(b"@@ -1 +1 @@\n-a\n+a\n" + mark, b"a\nb\n")


@pytest.mark.parametrize(
    "body",
    [
        b"@@ -2,2 +2,2 @@\n line 3\n-line 4\n+four\n",  # one line off
        b"@@ -2,2 +2,2 @@\n line 2 \n-line 3\n+three\n",
        b"@@ -20,2 +20,2 @@\n line 20\n-line 21\n",
        b"@@ -9,1 +9,1 @@\n-line 9\n@@ -3,1 +3,1 @@\n-line 3\n",  # out of order
        b"@@ -9,1 +9,1 @@\n-line 9\n@@ -9,1 +9,1 @@\n-line 9\n",
    ],
)
def test_a_hunk_fits_exactly_or_not_at_all(body: bytes) -> None:
    with pytest.raises(Usage, match=r"hunk [12] of f does not fit at line"):
        result(body)


def test_hunks_may_share_context() -> None:
    body = b"@@ -1,3 +1,2 @@\n line 1\n-line 2\n line 3\n@@ -3,2 +2,2 @@\n line 3\n-line 4\n"
    assert result(body) == OLD.replace(b"line 2\n", b"").replace(b"line 4\n", b"")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"hello\n", 1),
        (HEAD + b"@@ garbage @@\n", 5),
        (HEAD + b"@@ -1 +1 @@\n-a\n+b\nwhat is this\n", 8),
        (b"--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n", 1),
    ],
)
def test_what_is_no_patch_is_told_with_its_line(text: bytes, line: int) -> None:
    with pytest.raises(Usage, match=f"line {line}:"):
        parse(text)


NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name)


@given(name=NAMES)
def test_names_of_any_bytes(name: bytes) -> None:
    a, b = quote(b"a/" + name), quote(b"b/" + name)
    (found,) = parse(b"diff --git %s %s\ndeleted file mode 100644\n" % (a, b)).sections
    assert (found.old, found.new, found.deleted) == (name, name, True)
    told = parse(b"# goexfs: %s: owner 1:2, was 0:0\n" % quote(name)).notes
    assert (name, b"owner 1:2, was 0:0") in list(note_readings(told[0][1]))


@given(old=NAMES, new=NAMES)
def test_names_of_renames(old: bytes, new: bytes) -> None:
    text = b"diff --git %s %s\nsimilarity index 100%%\nrename from %s\nrename to %s\n" % (
        quote(b"a/" + old),
        quote(b"b/" + new),
        quote(old),
        quote(new),
    )
    (found,) = parse(text).sections
    assert (found.old, found.new, found.renamed) == (old, new, True)


TEXT = st.lists(st.sampled_from([b"a", b"b\n", b"c\r\n", b"\n", b"\xff\n", b"--- x\n"])).map(
    b"".join
)


@given(old=TEXT, new=TEXT)
def test_what_is_printed_is_read(old: bytes, new: bytes) -> None:
    printed = b"".join(hunks(split(old), split(new)))
    assert result(printed, old) == new


@given(st.binary(max_size=200) | st.lists(st.sampled_from(HEAD.split(b"\n"))).map(b"\n".join))
def test_nothing_breaks_the_reader(text: bytes) -> None:
    try:
        parse(HEAD + text)
        parse(text)
    except Usage:
        pass
