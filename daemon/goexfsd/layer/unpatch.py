"""A patch read back: its sections, hunks and notes, and hunks put on a text.

The format is what ``patch.py`` writes, as a person may have edited it: sections, hunks, lines and
notes taken out, lines changed.  The counts in ``@@`` lines are not believed, the old side's line
number is: a hunk fits exactly there or not at all.  Lines end with a newline and nothing else.

Pure functions of bytes that somebody else wrote: every fault is a Usage error that names the line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from goexfs.errors import Usage
from goexfs.names import display
from goexfsd.layer.changes import Root
from goexfsd.layer.lines import split
from goexfsd.layer.selection import Place

_NOTE = b"# goexfs: "
_WARNING = b"# goexfs: warning: "
_HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@")
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPES = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f"}
_ESCAPES[b"r"] = b"\r"
_NOWHERE = b"/dev/null"


@dataclass(slots=True)
class Hunk:
    number: int
    """Within its section, from 1."""
    at: int
    """The first line of the old side, from 0."""
    old: list[bytes] = field(default_factory=list)
    new: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class Section:
    """What the patch does at one path."""

    line: int
    """Where it begins in the patch, from 1."""
    old: bytes = b""
    """Names without ``a/`` and ``b/``, equal but for a rename."""
    new: bytes = b""
    created: bool = False
    deleted: bool = False
    renamed: bool = False
    mode: bool = False
    """It changes the mode."""
    hunks: list[Hunk] = field(default_factory=list)
    binary: bytes | None = None
    """The body of a ``GIT binary patch``; empty where it is only said that binary files differ."""

    @property
    def content(self) -> bool:
        return bool(self.hunks) or self.binary is not None


@dataclass(slots=True)
class Patch:
    sections: list[Section] = field(default_factory=list)
    notes: list[tuple[int, bytes]] = field(default_factory=list)
    """Line, and the text after ``# goexfs: ``: a name, a colon, what git cannot say."""


def parse(text: bytes) -> Patch:
    """The patch; Usage, with the line, where it is none."""
    return _Parser(text).patch()


def _wrong(line: int, what: str) -> Usage:
    return Usage(
        f"the patch cannot be read at line {line}: {what}",
        hint="start from the output of goexfs diff",
    )


class _Parser:
    def __init__(self, text: bytes) -> None:
        self._lines = text.rstrip(b"\n").split(b"\n") if text.strip() else []
        self._at = 0
        self._found = Patch()

    def patch(self) -> Patch:
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith(b"diff --git "):
                self._found.sections.append(self._section())
            elif line.startswith(_WARNING) or not line.strip():
                self._at += 1
            elif line.startswith(_NOTE):
                self._found.notes.append((self._at + 1, line[len(_NOTE) :]))
                self._at += 1
            elif line.startswith(b"#"):
                self._at += 1
            else:
                raise _wrong(self._at + 1, f"{display(line[:40])!r} belongs to no file")
        return self._found

    def _section(self) -> Section:
        section = Section(self._at + 1)
        names = _git_names(self._lines[self._at])
        self._at += 1
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith((b"diff --git ", b"#")):
                break
            if line.startswith(b"@@ "):
                section.hunks.append(self._hunk(len(section.hunks) + 1))
                continue
            self._at += 1
            if line == b"GIT binary patch":
                section.binary = self._binary()
            else:
                names = self._header(section, line, names)
        if names is None:
            raise _wrong(section.line, "the names in it are not clear")
        section.old, section.new = names
        return section

    def _header(
        self, section: Section, line: bytes, names: tuple[bytes, bytes] | None
    ) -> tuple[bytes, bytes] | None:
        """Take one header line in; returns the names as they are known then."""
        old, new = names or (b"", b"")
        if line.startswith(b"new file mode "):
            section.created = True
        elif line.startswith(b"deleted file mode "):
            section.deleted = True
        elif line.startswith((b"old mode ", b"new mode ")):
            section.mode = True
        elif line.startswith(b"rename from "):
            section.renamed = True
            return _name(line[12:]), new
        elif line.startswith(b"rename to "):
            section.renamed = True
            return old, _name(line[10:])
        elif line.startswith(b"--- "):
            side = _side(line[4:])
            return names if side is None else (side, side if section.deleted else new)
        elif line.startswith(b"+++ "):
            side = _side(line[4:])
            return names if side is None else (side if section.created else old or side, side)
        elif line.startswith(b"Binary files "):
            section.binary = b""
        elif line and not line.startswith((b"index ", b"similarity index ")):
            raise _wrong(self._at, f"{display(line[:40])!r} is no line of a patch")
        return names

    def _binary(self) -> bytes:
        start = self._at
        while self._at < len(self._lines) and not self._lines[self._at].startswith(
            (b"diff --git ", b"#")
        ):
            self._at += 1
        return b"\n".join(self._lines[start : self._at]).rstrip(b"\n")

    def _hunk(self, number: int) -> Hunk:
        head = _HUNK.match(self._lines[self._at])
        if head is None:
            raise _wrong(self._at + 1, "its @@ line is damaged")
        start, count = int(head[1]), 1 if head[2] is None else int(head[2])
        hunk = Hunk(number, start if count == 0 else max(0, start - 1))
        self._at += 1
        sides: tuple[list[bytes], ...] = ()
        blank = 0
        while self._at < len(self._lines):
            line = self._lines[self._at]
            mark = line[:1]
            if mark == b"\\":
                for side in sides:
                    side[-1] = side[-1].removesuffix(b"\n")
                sides = ()
            elif mark in b" +-":  # an empty line is one of context, whose space an editor took
                sides = {b"+": (hunk.new,), b"-": (hunk.old,)}.get(mark, (hunk.old, hunk.new))
                blank = 0 if line else blank + 1
                for side in sides:
                    side.append(line[1:] + b"\n")
            else:
                break
            self._at += 1
        while blank and len(hunk.old) > count:  # they only set the hunk off from what follows
            hunk.old.pop()
            hunk.new.pop()
            blank -= 1
        return hunk


def _git_names(line: bytes) -> tuple[bytes, bytes] | None:
    """Both names of ``diff --git a/X b/X``; None where only other lines can tell."""
    names = line.removeprefix(b"diff --git ")
    quoted = [found for found in _QUOTED.finditer(names)]
    if len(quoted) == 2 and quoted[0].start() == 0:
        return _plain(quoted[0][1])[2:], _plain(quoted[1][1])[2:]
    if len(quoted) == 1:
        found = quoted[0]
        if found.start() == 0:
            return _plain(found[1])[2:], names[found.end() + 1 :][2:]
        return names[: found.start() - 1][2:], _plain(found[1])[2:]
    half = len(names) // 2
    if names[:half][2:] == names[half + 1 :][2:]:
        return names[:half][2:], names[half + 1 :][2:]
    return None


def _name(text: bytes) -> bytes:
    found = _QUOTED.fullmatch(text)
    return text if found is None else _plain(found[1])


def _side(text: bytes) -> bytes | None:
    """The name after ``---`` or ``+++``; None where there is no file."""
    if text == _NOWHERE:
        return None
    return _name(text.removesuffix(b"\t"))[2:]


def _plain(quoted: bytes) -> bytes:
    def one(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code, 8) & 0xFF]) if len(code) == 3 else _ESCAPES.get(code, code)

    return _ESCAPED.sub(one, quoted)


def note_readings(note: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, what is said of it) in every way that a note can be read: names have colons too."""
    found = _QUOTED.match(note)
    if found is not None and note[found.end() : found.end() + 2] == b": ":
        yield _plain(found[1]), note[found.end() + 2 :]
        return
    at = note.find(b": ")
    while at >= 0:
        yield note[:at], note[at + 2 :]
        at = note.find(b": ", at + 2)


def place(name: bytes, roots: Sequence[Root]) -> Place | None:
    """Where a name of a patch lies; with several roots it begins with one's name."""
    if len(roots) == 1:
        return roots[0].index, b"" if name == b"." else name
    head, _, rest = name.partition(b"/")
    for root in roots:
        if os.fsencode(root.name) == head:
            return root.index, rest
    return None


def places(patch: Patch, roots: Sequence[Root]) -> set[Place]:
    """Every place that the patch may speak of, whether there is a change or not."""
    named = {name for each in patch.sections for name in (each.old, each.new)}
    named |= {name for _, note in patch.notes for name, _ in note_readings(note)}
    found = {place(name, roots) for name in named}
    return {each for each in found if each is not None}


# -- putting hunks on a text ----------------------------------------------------------------------


def put(data: bytes, hunks: Sequence[Hunk], name: str) -> bytes:
    """The text with the hunks in it; Usage, with the hunk, where one does not fit exactly.

    Hunks may share lines of context: only what they change must not overlap.
    """
    lines = split(data)
    made: list[bytes] = []
    done = 0
    for hunk in hunks:
        lead, tail = _context(hunk)
        start, end = hunk.at + lead, hunk.at + len(hunk.old) - tail
        if start < done or lines[hunk.at : hunk.at + len(hunk.old)] != hunk.old:
            raise Usage(
                f"hunk {hunk.number} of {name} does not fit at line {hunk.at + 1}",
                hint="context and removed lines must stay as goexfs diff printed them",
            )
        made += lines[done:start]
        made += hunk.new[lead : len(hunk.new) - tail]
        done = end
    made += lines[done:]
    if any(not line.endswith(b"\n") for line in made[:-1]):
        raise Usage(f"the patch leaves {name} with a line in its middle that has no newline")
    return b"".join(made)


def _context(hunk: Hunk) -> tuple[int, int]:
    """How many lines at its start and its end the hunk leaves as they are."""
    short = min(len(hunk.old), len(hunk.new))
    lead = 0
    while lead < short and hunk.old[lead] == hunk.new[lead]:
        lead += 1
    tail = 0
    while tail < short - lead and hunk.old[-1 - tail] == hunk.new[-1 - tail]:
        tail += 1
    return lead, tail
