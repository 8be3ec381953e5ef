"""Text for people: pure functions, from tables to patches that lie."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goexfs.cli import patch, progress, show, warned
from scripted import change

LYING = b"""diff --git a/x b/x
index 1..2 100644
--- a/x
+++ b/x
@@ -1,3 +1,3 @@ def f
--- a/not-a-header
-diff --git a/y b/y
+@@ -1,9 +1,9 @@
+++ c
 same
\\ No newline at end of file
# goexfs: created fifo p
diff --git a/bin b/bin
GIT binary patch
literal 3
Kc${NQ0s#O3

diff --git a/old name b/new name
similarity index 100%
rename from old name
rename to new name
"""


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_hunk_is_read_by_its_counts(size: int) -> None:
    reader = patch.Reader()
    found = [each for i in range(0, len(LYING), size) for each in reader.feed(LYING[i : i + size])]
    assert b"\n".join(line for _, line in [*found, *reader.end()]) + b"\n" == LYING
    parts = [part for part, _ in found]
    expected = [*["start", *["header"] * 3, "hunk", "removed", "removed", "added", "added"]]
    assert parts[:12] == [*expected, "context", "note", "note"]
    assert [line for part, line in found if part == "start"] == [
        b"diff --git a/x b/x",
        b"diff --git a/bin b/bin",
        b"diff --git a/old name b/new name",
    ]


def test_stat_counts() -> None:
    stat = patch.Stat()
    stat.feed(LYING)
    stat.end()
    assert stat.counts == {"x": [2, 2], "bin": [-1, -1], "new name": [0, 0]}
    assert list(patch.stat_lines(stat.counts, 80, False)) == [
        " x        | 4 ++--",
        " bin      | Bin",
        " new name | 0",
        " 3 files changed, 2 insertions(+), 2 deletions(-)",
    ]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"diff --git a/f b/f", b"f"),
        (b"diff --git a/a b/x b/a b/x", b"a b/x"),
        (b'diff --git "a/\\303\\274\\n" "b/\\303\\274\\n"', b"\xc3\xbc\n"),
        (b'diff --git a/plain "b/tab\\there \\"q\\" \\\\"', b'tab\there "q" \\'),
        (b"diff --git a/old b/new", b"new"),
    ],
)
def test_the_name_of_a_section(line: bytes, name: bytes) -> None:
    assert patch.section(line) == name


@given(st.text())
def test_nothing_on_a_terminal_can_steer_it(text: str) -> None:
    data = text.encode("utf-8", "surrogatepass").replace(b"\n", b"")
    shown = patch.on_terminal("context", data, colour=False).decode()
    assert shown[-1] == "\n"
    unsafe = {char for char in shown[:-1] if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")}
    assert unsafe <= {"\t"}
    assert "\x1b" not in show.name(text)
    assert "\n" not in show.name(text)


@given(st.text(), st.text(), st.text())
def test_no_change_steers_a_terminal_either(path: str, root: str, warning: str) -> None:
    told = change("renamed", path, old_path=root, root=root, warnings=[warning])
    for line in (
        show.change_line(told, True, False),
        *warned.lines({"changes": [told]}, True, False),
    ):
        unsafe = {char for char in line if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")}
        assert unsafe <= {"\t", "\n"} & set(warning)  # a sentence of ours


@given(st.lists(st.binary(), max_size=5))
def test_any_bytes_go_through_the_reader_whole(pieces: list[bytes]) -> None:
    reader = patch.Reader()
    lines = [line for piece in pieces for _, line in reader.feed(piece)]
    whole = b"".join(pieces)
    last = [line for _, line in reader.end()]
    assert b"\n".join([*lines, *(last or [b""])]) == whole


def test_change_lines() -> None:
    renamed = change("renamed", "b", old_path="a", aspects=["content"])
    assert show.change_line(renamed, True, False) == "R  project/a -> project/b  (content)"
    fifo = change("created", "p", type="fifo")
    assert show.change_line(fifo, False, False) == "A  p  (fifo)"
    root = change("metadata", ".", type="dir", aspects=["xattrs"])
    assert show.change_line(root, False, False) == "m  .  (xattrs)"
    assert show.change_line(fifo, False, True).startswith("\x1b[32mA  p\x1b[0m")
    damaged = change("deleted", "base64:!")
    assert show.change_line(damaged, False, False) == "D  base64:!"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0004, "0 ms"), (0.25, "250 ms"), (59.94, "59.9 s"), (61, "1 min 1 s"), (7300, "2 h 1 min")],
)
def test_spans(value: float, text: str) -> None:
    assert show.span(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (2**40 * 5, "5.0 TiB"),
        (2**60, "1048576.0 TiB"),
    ],
)
def test_sizes(value: int, text: str) -> None:
    assert show.size(value) == text


def test_progress_lines() -> None:
    assert progress.line("plan", 7, None) == "plan  7"
    assert progress.line("apply", 5, 0) == "apply  5"
    assert progress.line("apply", 1, 4) == "apply  [#####---------------]  25%  1/4"
    assert progress.line("apply", 9, 4).endswith("100%  9/4")


def test_many_warnings_of_one_kind_are_summed() -> None:
    gone = [f"git-deleted: .git/objects/{n:02x}/o: history is gone" for n in range(30)]
    one = ["setuid: bin/x: runs as its owner: setuid"]
    assert warned.summed([*gone, *one]) == [
        "git-deleted: .git/objects/: 30 changes: history is gone",
        *one,
    ]
