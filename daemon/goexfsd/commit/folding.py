"""Directories that do not tell upper from lower case (ext4's and f2fs's casefold), at commit.

The view tells names apart by their bytes, so a session may hold two that are one name in such a
directory: committed, one of the files would be lost.  Here they are found.  Equality is that of
the kernel's utf8 tables (case-folded, canonically decomposed), as near as Python's are to them.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

from goexfsd import kernel

_FEATURES = ("/sys/fs/ext4/features/casefold", "/sys/fs/f2fs/features/casefold")


@cache
def possible() -> bool:
    """Whether this kernel knows such directories at all."""
    return any(os.path.exists(path) for path in _FEATURES)


def folds(directory: str) -> bool:
    """Whether the directory at a path (one through a descriptor) is one."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return kernel.folds_case(fd)
    finally:
        os.close(fd)


def folded(name: bytes) -> str | bytes:
    """What is the same for two names that such a directory takes for one."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return name
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", text).casefold())


def clashes(arriving: Iterable[bytes], staying: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Names that arrive, each with another one that it would be."""
    known: dict[str | bytes, bytes] = {}
    for name in staying:
        known.setdefault(folded(name), name)
    for name in sorted(arriving):
        other = known.setdefault(folded(name), name)
        if other != name:
            yield name, other
