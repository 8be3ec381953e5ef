"""What stat shows: a node's status on disk, turned into what the kernel is told.

The disk is not always the truth: a link count leaves out the index and the base names that are
hidden; an owner or mode that the disk could not be given is in the ledger; in a session of root
every entry is shown as the sandbox's own.

Answers are the kernel's own structs (``wire.py``); pyfuse3's form of them is made at its edge.
"""

from __future__ import annotations

import os
import stat

from goexfsd.view import wire
from goexfsd.view.node import Node
from goexfsd.view.tree import Tree

LIVE = 1
"""Seconds that the kernel may rely on what comes from a base that may change."""
WATCHED = 60
"""Seconds that it may where it is told of what changes (``watcher.py``)."""
OURS = 1_000_000
"""Seconds that it may rely on what only the view changes."""

_NS = 1_000_000_000
_BLOCK = 4096
_U32 = 0xFFFFFFFF
"""libc's device numbers have the kernel's 32 bits below."""
_U64 = 0xFFFFFFFFFFFFFFFF
"""Times before 1970 are negative numbers in 64 bits."""
_entry_head = wire.ENTRY_HEAD.pack
_attr_head = wire.ATTR_HEAD.pack
_pack = wire.ATTR.pack


class Attributes:
    """Makes attributes; ``squash`` is the (uid, gid) to show for everything, or None.

    ``absence_lasts``: where the base cannot change, the kernel may remember for good that a name
    is absent (one that cannot be made to forget all names at once, for a rewind, may not).
    """

    __slots__ = ("absent", "base", "ledger", "squash", "tree", "watched")

    def __init__(
        self, tree: Tree, squash: tuple[int, int] | None, *, absence_lasts: bool = False
    ) -> None:
        self.tree = tree
        self.ledger = tree.ledger
        self.squash = squash
        self.base = [OURS if stable else LIVE for stable in tree.stable]
        """Of each root, how long the kernel may rely on what comes from its base."""
        self.watched = [OURS if stable else WATCHED for stable in tree.stable]
        """The same where it is watched."""
        lasts = self.base if absence_lasts else [LIVE] * len(self.base)
        self.absent = [wire.absent(seconds) for seconds in lasts]
        """Of each root the answer that a name is absent."""

    def entry(self, node: Node, st: os.stat_result, ours: bool) -> bytes:
        """A node as ``fuse_entry_out``; ``ours``: the name it was found under is in the upper."""
        valid = OURS if ours else self._found(node, st), self._lasts(node, st)
        return _entry_head(node.id, 0, *valid, 0, 0) + self._attr(node, st)

    def attr(self, node: Node, st: os.stat_result) -> bytes:
        """A node's attributes as ``fuse_attr_out``."""
        return _attr_head(self._lasts(node, st), 0, 0) + self._attr(node, st)

    def _lasts(self, node: Node, st: os.stat_result) -> int:
        """Seconds that the kernel may rely on a node's attributes."""
        if node.through:
            return 0  # they change without the view
        if node.upper:
            return OURS
        if node.kind == stat.S_IFDIR:
            return self.base[node.root] if node.watch <= 0 else self.watched[node.root]
        return self._found(node, st)

    def _found(self, node: Node, st: os.stat_result) -> int:
        """Seconds that it may rely on what it found in the base."""
        parent = node.parent
        if parent is None or parent.watch <= 0 or node.upper or node.more:
            return self.base[node.root]
        if st.st_nlink > 1 and node.kind != stat.S_IFDIR:
            return self.base[node.root]
        return self.watched[node.root]

    def _attr(self, node: Node, st: os.stat_result) -> bytes:
        """A node as ``fuse_attr``."""
        if not node.upper:
            node.told = (st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        mode, links, uid, gid = self.shown(node, st)
        atime, atime_ns = divmod(st.st_atime_ns, _NS)
        mtime, mtime_ns = divmod(st.st_mtime_ns, _NS)
        ctime, ctime_ns = divmod(st.st_ctime_ns, _NS)
        return _pack(
            node.id,
            st.st_size,
            st.st_blocks,
            atime & _U64,
            mtime & _U64,
            ctime & _U64,
            atime_ns,
            mtime_ns,
            ctime_ns,
            mode,
            links,
            uid,
            gid,
            st.st_rdev & _U32,
            _BLOCK,
            0,
        )

    def shown(self, node: Node, st: os.stat_result) -> tuple[int, int, int, int]:
        """What is not simply the disk's: mode, link count, owner and group."""
        mode, links, uid, gid = st.st_mode, st.st_nlink, st.st_uid, st.st_gid
        if node.kind == stat.S_IFDIR:
            root = node.root < 0
            links = 2 + len(self.tree.roots) if root else self.tree.dir_links(node, st)
        elif links > 1 or node.gone or node.indexed:
            links = self.links(node, st)
        if node.upper:
            ledger = self.ledger
            if ledger.modes:
                true = ledger.modes.get(node.upper_ino)
                if true is not None:
                    mode = (mode & ~0o700) | (true & 0o700)
            if ledger.owners:
                uid, gid = ledger.owners.get(node.upper_ino, (uid, gid))
        if self.squash is not None:
            uid, gid = self.squash
        return mode, links, uid, gid

    def links(self, node: Node, st: os.stat_result) -> int:
        """How many names a file has in the view."""
        key = node.key
        if node.upper:
            if node.indexed and key is not None:
                return max(0, st.st_nlink - 1 + self.ledger.visible_base_names(key))
            return st.st_nlink
        if node.gone and st.st_nlink <= 1:
            return 0
        if key is not None:
            return max(0, st.st_nlink - len(self.ledger.covered.get(key, ())))
        return st.st_nlink
