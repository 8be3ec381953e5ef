"""What stat shows: a node's status on disk, turned into what the kernel is told.

The disk is not always the truth: a link count leaves out the index and the base names that are
hidden; an owner or mode that the disk could not be given is in the ledger; in a session of root
every entry is shown as the sandbox's own.
"""

from __future__ import annotations

import os
import stat

import pyfuse3

from goexfsd.view.node import Node
from goexfsd.view.tree import Tree

LIVE = 1.0
"""Seconds that the kernel may rely on what comes from a base that may change."""
OURS = 1.0e6
"""Seconds that it may rely on what only the view changes."""


class Attributes:
    """Makes attributes; ``squash`` is the (uid, gid) to show for everything, or None.

    ``absence_lasts``: where the base cannot change, the kernel may remember for good that a name
    is absent (one that cannot be made to forget all names at once, for a rewind, may not).
    """

    __slots__ = ("absent", "base", "ledger", "squash", "tree")

    def __init__(
        self, tree: Tree, squash: tuple[int, int] | None, *, absence_lasts: bool = False
    ) -> None:
        self.tree = tree
        self.ledger = tree.ledger
        self.squash = squash
        self.base = [OURS if stable else LIVE for stable in tree.stable]
        """Of each root, how long the kernel may rely on what comes from its base."""
        self.absent = self.base if absence_lasts else [LIVE] * len(self.base)
        """The same for a name's absence."""

    def entry(self, node: Node, st: os.stat_result, ours: bool) -> pyfuse3.EntryAttributes:
        """The attributes of a node; ``ours``: the name it was found under is in the upper."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.id
        if not node.upper:
            node.told = (st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        entry.entry_timeout = OURS if ours else self.base[node.root]
        entry.attr_timeout = OURS if node.upper else self.base[node.root]
        entry.st_mode = st.st_mode
        entry.st_uid = st.st_uid
        entry.st_gid = st.st_gid
        entry.st_rdev = st.st_rdev
        entry.st_size = st.st_size
        entry.st_blocks = st.st_blocks
        entry.st_atime_ns = st.st_atime_ns
        entry.st_mtime_ns = st.st_mtime_ns
        entry.st_ctime_ns = st.st_ctime_ns
        if node.kind == stat.S_IFDIR:
            entry.st_nlink = (
                self.tree.dir_links(node, st) if node.root >= 0 else 2 + len(self.tree.roots)
            )
        elif st.st_nlink > 1 or node.gone or node.indexed:
            entry.st_nlink = self.links(node, st)
        ledger = self.ledger
        if node.upper and (ledger.modes or ledger.owners):
            self._override(entry, node)
        if self.squash is not None:
            entry.st_uid, entry.st_gid = self.squash
        return entry

    def _override(self, entry: pyfuse3.EntryAttributes, node: Node) -> None:
        mode = self.ledger.modes.get(node.upper_ino)
        if mode is not None:
            entry.st_mode = (entry.st_mode & ~0o700) | (mode & 0o700)
        owner = self.ledger.owners.get(node.upper_ino)
        if owner is not None:
            entry.st_uid, entry.st_gid = owner

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
