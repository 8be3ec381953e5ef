"""What a layer may still grow by while a script runs; the view asks before it lets it grow.

``bytes`` and ``inodes`` are what is left, and may fall below nothing: deletions (which need a
whiteout, a record, copies of directories) are counted but not refused, or a full layer could not
be made smaller; records only up to ``_OVERDRAFT``.  What a deleted file took is given back when
the kernel has forgotten it, for an open one goes on taking it.

It knows nothing of policies; ``refused`` says what to tell.
"""

from __future__ import annotations

import errno
import math
import os

BLOCK = 512
_OVERDRAFT = 16 << 20


class Quota:
    """The room that is left in one layer."""

    __slots__ = ("bytes", "inodes", "limit_bytes", "limit_inodes", "refused")

    def __init__(
        self,
        limit_bytes: int | None,
        limit_inodes: int | None,
        held_bytes: int = 0,
        held_inodes: int = 0,
    ) -> None:
        self.limit_bytes = limit_bytes
        self.limit_inodes = limit_inodes
        self.bytes = math.inf if limit_bytes is None else limit_bytes - held_bytes
        self.inodes = math.inf if limit_inodes is None else limit_inodes - held_inodes
        self.refused: set[str] = set()

    def want(self, size: int) -> None:
        """EDQUOT unless there is room for so many bytes."""
        if size > self.bytes:
            self._refuse("layer_bytes")

    def want_inode(self) -> None:
        if self.inodes < 1:
            self._refuse("layer_inodes")

    def want_write(self, fd: int, size: int, offset: int) -> None:
        """The same for a write; writing over what a file has needs no room."""
        if size > self.bytes:
            held = os.fstat(fd).st_blocks * BLOCK
            if offset + size > held or self.bytes < 0:
                self._refuse("layer_bytes")

    def spend(self, size: int, inodes: int = 0) -> None:
        """The layer has grown (or, below nothing, shrunk)."""
        self.bytes -= size
        self.inodes -= inodes

    def spend_on(self, st: os.stat_result) -> None:
        """One more entry."""
        self.spend(st.st_blocks * BLOCK, 1)

    def record(self, size: int) -> None:
        """One more record."""
        if self.bytes < -_OVERDRAFT:
            self._refuse("layer_bytes")
        self.bytes -= size

    def _refuse(self, what: str) -> None:
        self.refused.add(what)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
