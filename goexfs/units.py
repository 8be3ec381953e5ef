"""Sizes as people write them: ``2G``, ``512M``, ``4096``; and as they read them.

Units are powers of 1024.  Standard library only: the command line imports it at every start.
"""

from __future__ import annotations

import re

_UNITS = "KMGTP"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGTP])(?:i?B)?|B)?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes; ValueError with a sentence if it is no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(text) > 32:
        raise ValueError(f"{text[:32]!r} is no size; try 512M, 2G or a number of bytes")
    number, unit = match[1], match[2]
    factor = 1024 ** (_UNITS.index(unit.upper()) + 1) if unit else 1
    return int(float(number) * factor) if "." in number else int(number) * factor


def size_text(count: int) -> str:
    """The shortest exact form: 2147483648 as ``2G``."""
    for power in range(len(_UNITS), 0, -1):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power}{_UNITS[power - 1]}"
    return str(count)
