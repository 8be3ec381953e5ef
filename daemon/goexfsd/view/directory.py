"""Handlers for directories: opendir, readdir (always with attributes), releasedir, fsyncdir.

An open directory lists the names that were there when it was opened or rewound; an offset is a
position in that list, so it stays good however the directory changes: no entry comes twice, and
none is lost that stood throughout.  What has vanished since is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pyfuse3
from pyfuse3 import EntryAttributes, ReaddirToken, RequestContext

from goexfsd.view.handling import handler, in_thread
from goexfsd.view.metadata import Metadata
from goexfsd.view.node import Node

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Listing:
    """One open directory."""

    __slots__ = ("names", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.names: list[bytes] | None = None


class Directories(Metadata):
    """opendir … fsyncdir."""

    def __init__(self) -> None:
        super().__init__()
        self.listings: dict[int, Listing] = {}
        self._next_listing = 1

    @handler
    def opendir(self, inode: int, ctx: RequestContext) -> int:
        node = self.known(inode)
        if not node.gone:
            self.tree.merged_fd(node)  # an ESTALE is seen here: the kernel looks up again
        number = self._next_listing
        self._next_listing += 1
        self.listings[number] = Listing(node)
        node.opens += 1
        return number

    @handler
    def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        listing = self.listings[fh]
        if listing.names is None or start_id == 0:
            listing.names = [b".", b"..", *self.tree.names(listing.node)]
        names = listing.names
        for at in range(start_id, len(names)):
            if not self._tell(listing.node, names[at], token, at + 1):
                break

    def _tell(self, node: Node, name: bytes, token: ReaddirToken, following: int) -> bool:
        """One entry into the reply; False if it did not fit."""
        if name in (b".", b".."):
            one = node if name == b"." else node.parent or node
            entry = self.attributes.entry(one, self.status(one), False)
            return pyfuse3.readdir_reply(token, name, entry, following)
        if node.root < 0:
            child = next(root for root in self.tree.roots if root.name == name)
            entry = self.attributes.entry(child, self.status(child), True)
        else:
            found = self._look(node, name)
            if found is None:
                return True
            child, entry = found
        if pyfuse3.readdir_reply(token, name, entry, following):
            child.lookups += 1
            return True
        self.tree.table.collect(child)
        return False

    def _look(self, node: Node, name: bytes) -> tuple[Node, EntryAttributes] | None:
        """An entry of a directory that may be read, but perhaps not entered."""
        try:
            return self._child(node, name)
        except PermissionError:
            if not node.upper:
                raise
            with self.tree.lent(node):
                return self._child(node, name)

    def _child(self, node: Node, name: bytes) -> tuple[Node, EntryAttributes] | None:
        found = self.tree.find(node, name)
        if found is None:
            return None
        st, upper = found
        child = self.tree.node(node, name, st, upper)
        if child.upper != upper:
            st = self.tree.status(child)
        return child, self.attributes.entry(child, st, upper)

    @handler
    def releasedir(self, fh: int) -> None:
        node = self.listings.pop(fh).node
        node.opens -= 1
        self.tree.table.collect(node)

    @in_thread
    def fsyncdir(self, fh: int, datasync: bool) -> Callable[[], None]:
        node = self.listings[fh].node
        if not node.upper or node.gone:
            return lambda: None
        fd = os.open(b".", _LIST, dir_fd=self.tree.upper_fd(node))
        return self._syncing(fd, datasync)
