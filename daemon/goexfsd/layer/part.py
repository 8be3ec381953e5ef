"""A part of a merged tree: the upper tree is read as it is asked for, and never whole.

What a full ``Tree`` finds by having read everything (where a renamed directory is now, which
names a file has) this one finds only among what it has read; ``since`` sees to it that this is
enough.  What is *shown* under a name is always right.
"""

from __future__ import annotations

import os

from goexfs.errors import Limit
from goexfsd.layer.tree import MAX_PATH, Entry, Node, Tree


class Part(Tree):
    """One root's view, of which little is wanted."""

    def _scan(self) -> Node:
        self._whole: set[bytes] = set()
        return self._upper_top()

    @property
    def uppermost(self) -> Node:
        assert self.top.node is not None
        return self.top.node

    # -- reading -------------------------------------------------------------------------------

    def load(self, parent: Node, name: bytes) -> Node | None:
        """What the upper tree has under ``name``; None for a whiteout, or nothing at all."""
        assert parent.children is not None
        assert self._upper is not None
        if name in parent.children:
            return parent.children[name]
        if parent.path in self._whole:
            return None
        try:
            fd = self._upper.fd(parent.path)
            st = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise self._denied(parent.path, "in the layer") from error
        if len(parent.path) >= MAX_PATH:
            raise Limit(
                f"the layer holds directories nested beyond {MAX_PATH} bytes of path",
                hint="remove them in the view, rewind, or discard",
            )
        redirected: list[Node] = []
        child = self._take(parent, name, st, redirected)
        self._drop_doubles(redirected)
        return child

    def load_all(self, node: Node) -> list[Node]:
        """All that is in an upper directory; the directories among it."""
        assert node.children is not None
        for name, _ in self.listed(node):
            self.load(node, name)
        self._whole.add(node.path)
        found = (child for child in node.children.values() if child is not None)
        return [child for child in found if child.children is not None]

    def listed(self, node: Node) -> list[tuple[bytes, int]]:
        """Names and inodes in an upper directory; nothing is read of them."""
        assert self._upper is not None
        try:
            return list(self._upper.inodes(node.path))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError as error:
            raise self._denied(node.path, "in the layer") from error

    # -- the view ------------------------------------------------------------------------------

    def child(self, parent: Entry, name: bytes) -> Entry | None:
        if parent.node is not None and parent.node.children is not None:
            self.load(parent.node, name)
        return super().child(parent, name)

    def names(self, parent: Entry) -> set[bytes]:
        if parent.node is not None and parent.node.children is not None:
            self.load_all(parent.node)
        return super().names(parent)
