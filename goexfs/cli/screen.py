"""A script's output on its way to a terminal: colours and progress bars pass, the rest is shown.

A terminal obeys more than text: sequences that set the clipboard or the title, that make it type
answers into the next shell, that switch its character set.  What a script prints is not trusted to
do that.  Colours, moving about by lines and columns, erasing, and hiding the cursor are obeyed;
every other control character is shown (``\\x1b``), and what follows it is text.

Only where a terminal is at the other end: a pipe or a file gets the bytes as they came.  In
`goexfs shell` all of the terminal is the script's.
"""

from __future__ import annotations

import re

_SAFE = rb"\x1b\[[0-9;:]{0,64}[A-GJKm]|\x1b\[\?25[hl]"
_UNSAFE = rb"[\x00-\x06\x0b-\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]"
_FOUND = re.compile(_SAFE + rb"|(" + _UNSAFE + rb")")
_CUT_OFF = re.compile(rb"(?:\x1b(?:\[[0-9;:?]{0,64})?|\xc2)\Z")


class Screen:
    """One stream; a sequence may come in pieces."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What may be written now."""
        data = self._held + data
        cut = _CUT_OFF.search(data)
        self._held = b"" if cut is None else data[cut.start() :]
        return _FOUND.sub(_shown, data if cut is None else data[: cut.start()])

    def end(self) -> bytes:
        """What was held back: nothing more comes."""
        held, self._held = self._held, b""
        return _FOUND.sub(_shown, held)


def _shown(match: re.Match[bytes]) -> bytes:
    unsafe: bytes | None = match[1]
    return match[0] if unsafe is None else b"\\x%02x" % unsafe[-1]
