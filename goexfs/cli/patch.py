"""Reading a patch in git's format as it streams by: colours for a terminal, counts for --stat.

A line's meaning follows from where it stands (a ``-`` line of a hunk may look like a header), so
hunks are read by the counts in their ``@@`` line.  Whoever pipes a patch gets its bytes as they
came; on a terminal control characters in it are shown, not obeyed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from goexfs.names import display, visible

Part = Literal["start", "header", "hunk", "added", "removed", "context", "note"]

_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_QUOTED = re.compile(rb"\\([0-7]{3}|.)")
_ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f"}
_WARNING = b"# goexfs: warning: "
_COLOURS: dict[Part, str] = {
    "start": "1",
    "header": "1",
    "hunk": "36",
    "added": "32",
    "removed": "31",
    "note": "2",
}


class Reader:
    """Pieces of a patch in, its lines with their meaning out (without the newline)."""

    def __init__(self) -> None:
        self._rest = b""
        self._old = 0
        self._new = 0

    def feed(self, piece: bytes) -> Iterator[tuple[Part, bytes]]:
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            yield self._meaning(line), line

    def end(self) -> Iterator[tuple[Part, bytes]]:
        if self._rest:
            yield self._meaning(self._rest), self._rest
            self._rest = b""

    def _meaning(self, line: bytes) -> Part:
        if self._old > 0 or self._new > 0:
            return self._in_hunk(line)
        if line.startswith(b"diff --git "):
            return "start"
        if line.startswith(b"\\"):
            return "note"
        found = _HUNK.match(line)
        if found is not None:
            self._old, self._new = (int(n) if n is not None else 1 for n in found.groups())
            return "hunk"
        return "note" if line.startswith(b"#") else "header"

    def _in_hunk(self, line: bytes) -> Part:
        mark = line[:1]
        if mark == b"\\":
            return "note"
        if mark != b"+":
            self._old -= 1
        if mark != b"-":
            self._new -= 1
        return "added" if mark == b"+" else "removed" if mark == b"-" else "context"


def on_terminal(part: Part, line: bytes, colour: bool) -> bytes:
    """The line with its newline, safe and, where asked, coloured."""
    text = visible(line.decode("utf-8", "surrogateescape"))
    code = "1;31" if part == "note" and line.startswith(_WARNING) else _COLOURS.get(part)
    if colour and code:
        text = f"\x1b[{code}m{text}\x1b[m"
    return text.encode("utf-8", "backslashreplace") + b"\n"


class Stat:
    """Lines added and removed, a file at a time, in the patch's order."""

    def __init__(self) -> None:
        self._reader = Reader()
        self.counts: dict[str, list[int]] = {}
        """Shown name to [added, removed]; [-1, -1] for a binary file."""
        self._current = [0, 0]

    def feed(self, piece: bytes) -> None:
        for part, line in self._reader.feed(piece):
            self._count(part, line)

    def end(self) -> None:
        for part, line in self._reader.end():
            self._count(part, line)

    def _count(self, part: Part, line: bytes) -> None:
        if part == "start":
            self._current = self.counts.setdefault(display(section(line)), [0, 0])
        elif part == "added":
            self._current[0] += 1
        elif part == "removed":
            self._current[1] += 1
        elif line == b"GIT binary patch" or line.startswith(b"Binary files "):
            self._current[:] = [-1, -1]


def section(line: bytes) -> bytes:
    """The new name in a ``diff --git a/OLD b/NEW`` line."""
    names = line.removeprefix(b"diff --git ")
    if names.endswith(b'"'):
        start = names.rfind(b' "b/')
        return unquote(names[start + 1 :])[2:]
    # Without a rename both names are the same: that splits names with " b/" in them right.
    half = len(names) // 2
    if names[:half][2:] == names[half + 1 :][2:]:
        return names[half + 1 :][2:]
    return names[names.rfind(b" b/") + 3 :]


def unquote(name: bytes) -> bytes:
    """A name as git quotes it in C's manner."""

    def plain(found: re.Match[bytes]) -> bytes:
        code = found.group(1)
        return bytes([int(code, 8)]) if len(code) == 3 else _ESCAPES.get(code, code)

    return _QUOTED.sub(plain, name[1:-1])


def stat_lines(counts: dict[str, list[int]], width: int, colour: bool) -> Iterator[str]:
    """``src/a.c | 12 +++++--``, and a line of totals, as git prints them."""
    if not counts:
        return
    longest = max(len(name) for name in counts)
    most = max(max(sum(each), 0) for each in counts.values())
    digits = len(str(most))
    room = max(10, width - longest - digits - 6)
    for name, (added, removed) in counts.items():
        if added < 0:
            yield f" {name:<{longest}} | {'Bin':>{digits}}"
            continue
        plus, minus = _bars(added, removed, most, room)
        bar = f"\x1b[32m{plus}\x1b[31m{minus}\x1b[m" if colour else plus + minus
        yield f" {name:<{longest}} | {added + removed:>{digits}} {bar}".rstrip()
    yield _totals(counts)


def _bars(added: int, removed: int, most: int, room: int) -> tuple[str, str]:
    scale = min(1.0, room / most) if most else 1.0
    return ("+" * _scaled(added, scale), "-" * _scaled(removed, scale))


def _scaled(count: int, scale: float) -> int:
    return max(1, int(count * scale)) if count else 0


def _totals(counts: dict[str, list[int]]) -> str:
    files = len(counts)
    added = sum(max(each[0], 0) for each in counts.values())
    removed = sum(max(each[1], 0) for each in counts.values())
    plural = "" if files == 1 else "s"
    return f" {files} file{plural} changed, {added} insertions(+), {removed} deletions(-)"
