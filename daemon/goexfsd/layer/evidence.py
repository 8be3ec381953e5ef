"""What a review may look at about one difference: bounded reads of the two views.

``goexfsd.warn`` says what to look for and opens nothing; here is what opens, with the care that
``tree`` takes: regular files only, no symlink followed, nothing that blocks.
"""

from __future__ import annotations

import os
import stat

from goexfs.errors import Denied
from goexfsd.layer.changes import Difference, Views
from goexfsd.layer.tree import Entry, Tree

_CAPABILITY = "security.capability"


class Evidence:
    """``goexfsd.warn.review.Evidence`` of one difference."""

    __slots__ = ("_difference", "_may_have", "_views")

    def __init__(self, views: Views, difference: Difference, root: bool = True) -> None:
        """``root``: whether the session is root's; nobody else can give a file capabilities."""
        self._views = views
        self._difference = difference
        self._may_have = root or difference.before is not None

    def look(self, limit: int) -> tuple[bytes, bool] | None:
        """The first bytes of the file now, and whether it has capabilities; None: unreadable."""
        entry = self._difference.after
        if entry is None:
            return None
        try:
            fd = self._views.new.open(entry)
            if fd is None:
                return None
            try:
                capable = self._may_have and _CAPABILITY in os.listxattr(fd)
                return os.read(fd, min(limit, entry.st.st_size + 1)), capable
            finally:
                os.close(fd)
        except (Denied, OSError):
            return None

    def capable(self) -> bool:
        """Whether the file has file capabilities."""
        entry = self._difference.after
        return entry is not None and _CAPABILITY.encode() in self._views.new.xattrs(entry)

    def before(self, limit: int) -> bytes:
        """The first bytes that the file had."""
        entry = self._difference.before
        return b"" if entry is None else _read(self._views.old, entry, limit)

    def target(self) -> bytes:
        """Where the symlink points."""
        entry = self._difference.after
        return b"" if entry is None else self._views.new.target(entry)

    def link(self, path: bytes) -> bytes | None:
        """Where the symlink at ``path`` points; None if there is none."""
        entry = self._found(path)
        if entry is None or not stat.S_ISLNK(entry.st.st_mode):
            return None
        return self._views.new.target(entry)

    def exists(self, path: bytes) -> bool:
        """Whether the view has something at ``path``."""
        return self._found(path) is not None

    def _found(self, path: bytes) -> Entry | None:
        try:
            return self._views.new.lookup(path)
        except (Denied, OSError):
            return None


def _read(tree: Tree, entry: Entry, limit: int) -> bytes:
    try:
        fd = tree.open(entry)
    except (Denied, OSError):
        return b""
    if fd is None:
        return b""
    try:
        return os.read(fd, limit)
    except OSError:
        return b""
    finally:
        os.close(fd)
