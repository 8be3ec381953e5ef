"""The change list: every difference between two views of the same roots, and none that is not one.

It knows nothing of the protocol; ``layer.jobs`` makes the wire form.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from goexfsd.layer.origins import Identity

Kind = Literal["deleted", "created", "modified", "renamed", "retyped", "metadata"]
FileType = Literal["file", "dir", "symlink", "fifo", "socket", "char", "block"]
Progress = Callable[[str, int, int | None], None]
"""Called now and then with a stage, how much is done, and the total (None: unknown)."""


class Root(Protocol):
    """What is needed of a root (``goexfsd.worker.Root`` is one)."""

    @property
    def index(self) -> int: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    ``old_path`` is set for renames only.  A deletion's ``path`` is where the entry was; below a
    renamed directory every other ``path`` is the new place, and its base counterpart lies below
    that directory's ``old_path``.
    """

    kind: Kind
    root: int
    path: bytes
    """Now (for a deletion: where it was), relative to the root; b"" is the root itself."""
    old_path: bytes | None
    """Renamed: the path it came from."""
    type: FileType
    old_type: FileType | None
    st: os.stat_result | None
    """In the view now (None: deleted), mode and owner as shown."""
    old_st: os.stat_result | None
    """What it was (None: created)."""
    aspects: frozenset[str]
    """What differs: content, mode, owner, xattrs, target, device, times, links."""
    source: bytes | None
    """Path below ``upper/<root name>/`` of the upper inode; None for deletions."""
    upper_ino: int
    """0 where there is no upper inode."""
    origin: Identity | None
    """What the session saw in the base at ``old_path`` or ``path``; None: nothing was there."""
    links: int
    """Names that the file has in the view."""


def compute(
    layer_fd: int,
    roots: Sequence[Root],
    root_fds: Sequence[int],
    *,
    progress: Progress | None = None,
) -> list[Change]:
    """All changes of the layer against the base: deletions first, then by root and path."""
    raise NotImplementedError
