"""Pieces of git's patch format: quoted names, blob names, base85 binary hunks.

Pure functions of bytes; what goes into a patch, and in which order, is ``patch.py``'s.
See git-diff(1), "Generating patch text with -p", and git's own base85.c and diff.c.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator

NULL_ID = b"0" * 40

_ESCAPES = {
    0x07: b"\\a",
    0x08: b"\\b",
    0x09: b"\\t",
    0x0A: b"\\n",
    0x0B: b"\\v",
    0x0C: b"\\f",
    0x0D: b"\\r",
    0x22: b'\\"',
    0x5C: b"\\\\",
}
_PLAIN = frozenset(range(0x20, 0x7F)) - {0x22, 0x5C}


def quote(name: bytes) -> bytes:
    """The name as git writes it: in C quotes if it holds anything unusual."""
    if _PLAIN.issuperset(name):
        return name
    return b'"' + b"".join(_quoted(byte) for byte in name) + b'"'


def _quoted(byte: int) -> bytes:
    if byte in _PLAIN:
        return bytes((byte,))
    return _ESCAPES.get(byte) or b"\\%03o" % byte


def side(name: bytes) -> bytes:
    """The name after ``---`` or ``+++``: a tab ends one with spaces, for GNU patch."""
    quoted = quote(name)
    return quoted + b"\t" if b" " in name and quoted == name else quoted


def blob_id(data: bytes) -> bytes:
    """The name that git would give the content."""
    head = b"blob %d\0" % len(data)
    return hashlib.sha1(head + data, usedforsecurity=False).hexdigest().encode("ascii")


_LITERAL_STEP = 52 * 1024


def is_binary(data: bytes) -> bool:
    """git's rule: a NUL in the first 8000 bytes."""
    return b"\0" in data[:8000]


def unspoken(old: bytes, new: bytes) -> bytes:
    """That a binary file differs, without its content."""
    return b"Binary files %s and %s differ\n" % (old, new)


def binary(old: bytes, new: bytes) -> Iterator[bytes]:
    """The body of a ``GIT binary patch``: the new content whole, and the old one to go back."""
    yield b"GIT binary patch\n"
    yield from _literal(new)
    yield from _literal(old)


def _literal(data: bytes) -> Iterator[bytes]:
    yield b"literal %d\n" % len(data)
    packed = zlib.compress(data)
    for at in range(0, len(packed), _LITERAL_STEP):
        piece = packed[at : at + _LITERAL_STEP]
        encoded = base64.b85encode(piece, pad=True)  # one call: 13 groups of 5 letters a line
        yield b"".join(
            b"%c%s\n" % (_length(len(piece) - 52 * n), encoded[65 * n : 65 * n + 65])
            for n in range((len(piece) + 51) // 52)
        )
    yield b"\n"


def _length(left: int) -> int:
    """The letter for the bytes in a line: 1 to 26 are A to Z, 27 to 52 are a to z."""
    size = min(left, 52)
    return size + 64 if size <= 26 else size + 70
