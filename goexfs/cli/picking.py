"""Which pieces of a patch are wanted: asked one by one, in git add -p's words.

Answers are lines of stdin; no more of them (the terminal is gone) ends it as Ctrl-C does, with
nothing chosen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import click

from goexfs.cli.hunks import Hunk, Piece
from goexfs.cli.patch import Reader, on_terminal
from goexfs.errors import Usage

_HELP = {
    "y": "commit this",
    "n": "leave this in the session",
    "q": "leave this and all that follows",
    "a": "commit this and all that follows in this file",
    "d": "leave this and all that follows in this file",
    "s": "split this hunk",
    "e": "edit this hunk",
    "?": "say what the letters mean",
}
_EDIT = b"""# What goes away from the file has a '-', what comes a '+', what stays a space.
# To leave a removal out, make its '-' a ' '; to leave an addition out, delete its line.
# Lines with a '#' are dropped; with no line left the hunk stays in the session.
"""


class _Enough(Exception):
    """The rest stays."""


def pick(pieces: Sequence[Piece], colour: bool) -> bytes:
    """The patch of what was chosen."""
    asking = _Asking(colour)
    chosen = b""
    try:
        for number, piece in enumerate(pieces, 1):
            asking.place = f"({number}/{len(pieces)})"
            for text in asking.piece(piece):
                chosen += text
    except _Enough:
        chosen += asking.begun
    return chosen


class _Asking:
    def __init__(self, colour: bool) -> None:
        self._colour = colour
        self.place = ""
        self.begun = b""
        """What is chosen of the file that is being asked about."""

    def piece(self, piece: Piece) -> Iterator[bytes]:
        self.begun = b""
        self._show(piece.head)
        if piece.note or piece.whole or not piece.hunks:
            for hunk in piece.hunks:
                self._show(hunk.lines)
            answer = self._ask("this change", "ynqad")
            if answer == "q":
                raise _Enough
            if answer in "ya":
                yield piece.text(piece.hunks)
            return
        kept: list[Hunk] = []
        try:
            self._hunks(list(piece.hunks), kept)
        except _Enough:
            self.begun = self._text(piece, kept)
            raise
        yield self._text(piece, kept)

    def _text(self, piece: Piece, kept: list[Hunk]) -> bytes:
        """Of a file that comes, goes or gets another name or mode, that is chosen with its
        first hunk."""
        return piece.text(kept) if kept else b""

    def _hunks(self, waiting: list[Hunk], kept: list[Hunk]) -> None:
        shown = False
        while waiting:
            hunk = waiting[0]
            parts = hunk.split()
            if not shown:
                self._show(hunk.lines)
            answer = self._ask("this hunk", "ynqad" + ("s" if len(parts) > 1 else "") + "e")
            shown = False
            if answer == "q":
                raise _Enough
            if answer == "s":
                waiting[:1] = parts
            elif answer == "a":
                kept += waiting
                return
            elif answer == "d":
                return
            elif answer == "e":
                edited = edit(hunk)
                kept += [edited] if edited is not None else []
                del waiting[0]
            else:
                kept += [hunk] if answer == "y" else []
                del waiting[0]

    def _ask(self, what: str, letters: str) -> str:
        question = f"{self.place} Commit {what} [{','.join(letters)},?]? "
        while True:
            click.echo(question, nl=False, err=True)
            line = sys.stdin.readline()
            if not line:
                raise KeyboardInterrupt
            answer = line.strip()[:1].lower()
            if answer and answer in letters:
                return answer
            for letter in (*letters, "?"):
                click.echo(f"{letter} - {_HELP[letter]}", err=True)

    def _show(self, lines: Sequence[bytes]) -> None:
        sys.stdout.flush()
        reader = Reader()
        text = b"".join(line + b"\n" for line in lines)
        for part, line in [*reader.feed(text), *reader.end()]:
            sys.stdout.buffer.write(on_terminal(part, line, self._colour))
        sys.stdout.buffer.flush()


def edit(hunk: Hunk, run: Callable[[str], None] | None = None) -> Hunk | None:
    """The hunk as the user left it in an editor; None where nothing is left of it."""
    with tempfile.NamedTemporaryFile(suffix=".diff") as file:
        file.write(b"".join(line + b"\n" for line in hunk.lines) + _EDIT)
        file.flush()
        (run or _editor)(file.name)
        with open(file.name, "rb") as again:  # an editor may have put another file there
            lines = again.read().split(b"\n")
    body = [line for line in lines if line and not line.startswith((b"#", b"@@"))]
    if not any(line[:1] in b"+-" for line in body):
        return None
    return Hunk([hunk.lines[0], *body])


def _editor(name: str) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    done = subprocess.run(["sh", "-c", f'{editor} "$@"', editor, name], check=False)
    if done.returncode:
        raise Usage(f"the editor {editor} ended with status {done.returncode}")
