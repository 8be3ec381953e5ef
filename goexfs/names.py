"""File names: bytes on disk, text on the wire, something safe on a terminal.

A name on the wire is its UTF-8 text.  A name that is not UTF-8, and one whose text itself
begins with ``base64:``, travels as ``base64:`` plus the base64 of its bytes, so that the
mapping is one to one.  On a terminal every control, format (bidi) and undecodable character is
shown escaped, so that no name can move the cursor or pose as another.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections import Counter
from collections.abc import Sequence

_PREFIX = "base64:"
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def to_wire(name: bytes) -> str:
    """The wire form of a path's bytes."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return _PREFIX + base64.b64encode(name).decode("ascii")
    if text.startswith(_PREFIX):
        return _PREFIX + base64.b64encode(name).decode("ascii")
    return text


def from_wire(text: str) -> bytes:
    """The bytes of a wire path; raises ValueError if the base64 is damaged."""
    if not text.startswith(_PREFIX):
        return text.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(text[len(_PREFIX) :], validate=True)
    except binascii.Error as error:
        raise ValueError(f"not a path: damaged base64 in {text!r}") from error


def display(name: bytes | str) -> str:
    """The name for a terminal: unsafe characters become ``\\n``, ``\\x1b``, ``\\u202e``, ..."""
    text = name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown(char) for char in text)


def visible(text: str) -> str:
    """Any text for a terminal: as ``display``, but tabs, newlines and backslashes stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in "\n\t\\" else _shown(char) for char in text)


def _shown(char: str) -> str:
    if char == "\\":
        return "\\\\"
    point = ord(char)
    if 0xDC80 <= point <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{point - 0xDC00:02x}"
    if unicodedata.category(char) not in _UNSAFE:
        return char
    if char in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[char]
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def folders(shown: Sequence[str], most: int = 4) -> list[tuple[str, int]]:
    """Directories that hold all of the names (for a terminal), and how many of them each holds:
    the deepest of which there are no more than ``most``; the last resort is ``./``."""
    split = [name.split("/")[:-1] for name in shown]
    for depth in range(max(map(len, split), default=0), 0, -1):
        found = Counter("".join(part + "/" for part in parts[:depth]) or "./" for parts in split)
        if len(found) <= most:
            return sorted(found.items())
    return [("./", len(shown))]
