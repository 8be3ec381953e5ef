"""A patch in pieces: notes, files and their hunks, to be asked about one by one, and split.

A piece keeps its bytes as they came, so that those which are chosen make a patch again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from goexfs.cli.patch import Reader


@dataclass(slots=True)
class Hunk:
    lines: list[bytes]
    """The ``@@`` line and the body, without newlines."""

    def split(self) -> list[Hunk]:
        """Smaller hunks, one for each run of changed lines; itself if there is but one.

        Only the old side's place counts: the new side's is left as it was.
        """
        head, body = self.lines[0], self.lines[1:]
        start = int(head[4:].partition(b" ")[0].partition(b",")[0])
        runs = _runs(body)
        if len(runs) < 2:
            return [self]
        found = []
        for number in range(len(runs)):
            before = 0 if number == 0 else runs[number - 1][1]
            after = len(body) if number + 1 == len(runs) else runs[number + 1][0]
            piece = body[before:after]
            at = start + sum(_is_old(line) for line in body[:before])
            count = sum(_is_old(line) for line in piece)
            new = sum(line[:1] in (b" ", b"+") for line in piece)
            found.append(Hunk([b"@@ -%d,%d +%d,%d @@" % (at, count, at, new), *piece]))
        return found


def _is_old(line: bytes) -> bool:
    return line[:1] in (b" ", b"-")


def _runs(body: list[bytes]) -> list[tuple[int, int]]:
    """Where changed lines stand together, with the marks that say that a newline is missing."""
    runs: list[tuple[int, int]] = []
    for at, line in enumerate(body):
        mark = line[:1]
        changed = mark in (b"+", b"-") or (mark == b"\\" and bool(runs) and runs[-1][1] == at)
        if not changed:
            continue
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], at + 1)
        else:
            runs.append((at, at + 1))
    return runs


@dataclass(slots=True)
class Piece:
    """A note, or one file's part of the patch."""

    head: list[bytes] = field(default_factory=list)
    """A note's only line, or the lines above the hunks."""
    hunks: list[Hunk] = field(default_factory=list)

    @property
    def note(self) -> bool:
        return self.head[0].startswith(b"#")

    @property
    def whole(self) -> bool:
        """Whether its hunks only make sense together."""
        link = any(line.startswith(b"index ") and line.endswith(b" 120000") for line in self.head)
        marks = (b"deleted file", b"new file mode 120000")
        return link or any(line.startswith(marks) for line in self.head)

    def text(self, hunks: Iterable[Hunk]) -> bytes:
        """The piece with these of its hunks."""
        lines = [*self.head, *(line for hunk in hunks for line in hunk.lines)]
        return b"".join(line + b"\n" for line in lines)


def pieces(patch: bytes) -> list[Piece]:
    """The pieces in their order, without warnings."""
    reader = Reader()
    found: list[Piece] = []
    for part, line in [*reader.feed(patch), *reader.end()]:
        if part == "start":
            found.append(Piece([line]))
        elif line.startswith(b"# ") and part == "note":
            if not line.startswith(b"# goexfs: warning: "):
                found.append(Piece([line]))
        elif part == "hunk":
            found[-1].hunks.append(Hunk([line]))
        elif found and found[-1].hunks:
            found[-1].hunks[-1].lines.append(line)
        elif found:
            found[-1].head.append(line)
    return found
