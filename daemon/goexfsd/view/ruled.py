"""A view with rules: the tree, the changer and the handlers that keep them; see ``rules.py``.

Hidden: not there, for any process, and nothing can be made there (EACCES); a directory that holds
it is not empty.  Masked: there, but empty and read-only; what is neither a file nor a directory is
hidden instead.  Read-only: may be read; every change fails with EROFS, making what is missing too.

A rule is about a path, so nothing may carry an entry out of it, or something else into it: ruled
entries are neither renamed nor linked, and a directory only to where all the rules below it stay
the same (EACCES).  A base file with several names is not changed in place (EACCES): one of the
others, which need not be known here, may be ruled.  So a layer never holds a change of a ruled
entry, and the change list needs to know nothing of rules.

Views without rules use none of this.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Iterable, Sequence
from typing import cast

from pyfuse3 import EntryAttributes, SetattrFields

from goexfsd import kernel
from goexfsd.layer.writer import Layer
from goexfsd.view.attributes import Attributes
from goexfsd.view.changer import Changer
from goexfsd.view.copier import fail
from goexfsd.view.data import as_opened
from goexfsd.view.directory import Directories
from goexfsd.view.handling import Context, attr_handler, handler
from goexfsd.view.node import Node
from goexfsd.view.places import DIRECTORY
from goexfsd.view.rules import HIDDEN, MASKED, RULED, Rule, Rules
from goexfsd.view.tree import Tree

_PLAIN = (stat.S_IFREG, stat.S_IFDIR)


class RuledTree(Tree):
    """Finds what the rules let be found."""

    def __init__(self, layer: Layer, root_fds: Sequence[int], rules: Iterable[Rule]) -> None:
        self.rules = Rules(rules, len(root_fds))
        self.void = os.memfd_create("masked", os.MFD_CLOEXEC)
        """What masked entries are read from."""
        self._masked: dict[tuple[Node, bytes], Node] = {}
        super().__init__(layer, root_fds)

    # -- what a rule says ------------------------------------------------------------------------

    def state(self, node: Node) -> int:
        """The rules' state at a directory; nothing is ruled where no name leads to."""
        names = []
        while not self.is_root(node):
            if node.parent is None:
                return 0
            names.append(node.name)
            node = node.parent
        state = self.rules.tops[node.root] if node.root >= 0 else 0
        for name in reversed(names):
            state = self.rules.below(state, name)
        return state

    def at(self, parent: Node, name: bytes) -> int:
        """The rules' state at a name."""
        return self.rules.below(self.state(parent), name)

    def verdict(self, node: Node) -> int:
        """What is ruled of a node under any of the names that are known of it."""
        if self.is_root(node) or node.parent is None:
            return 0
        ruled = self.at(node.parent, node.name)
        for parent, name in node.more or ():
            ruled |= self.at(parent, name)
        return ruled & RULED

    # -- what is shown ---------------------------------------------------------------------------

    def hidden(self, parent: Node, name: bytes) -> bool:
        return super().hidden(parent, name) or bool(self.at(parent, name) & HIDDEN)

    def find(self, parent: Node, name: bytes) -> tuple[os.stat_result, bool] | None:
        found = super().find(parent, name)
        if found is not None and self.at(parent, name) & MASKED:
            return found if stat.S_IFMT(found[0].st_mode) in _PLAIN else None
        return found

    def names(self, node: Node) -> list[bytes]:
        state = self.state(node)
        below = self.rules.below
        return [name for name in super().names(node) if not below(state, name) & HIDDEN]

    def all_names(self, node: Node) -> list[bytes]:
        """Hidden ones too."""
        return super().names(node)

    def node(self, parent: Node, name: bytes, st: os.stat_result, upper: bool) -> Node:
        if not self.at(parent, name) & MASKED:
            return super().node(parent, name, st, upper)
        key = (parent, name)
        kind = stat.S_IFMT(st.st_mode)
        node = self._masked.get(key)
        if node is None or node.kind != kind or self.table.by_id.get(node.id) is not node:
            number = self.table.number(self.preferred(parent, st, upper))
            node = Node(number, kind, parent.root, parent, name)
            # As a deleted entry it has no place on disk, only what it is open as: nothing.
            node.gone, node.fd = True, os.dup(self.void)
            self.table.add(node)
            self._masked[key] = node
        return node

    def is_masked(self, node: Node) -> bool:
        return node.parent is not None and self._masked.get((node.parent, node.name)) is node

    def tidy(self) -> None:
        if self.table.dropped and self._masked:
            alive = self.table.by_id
            self._masked = {
                key: node for key, node in self._masked.items() if alive.get(node.id) is node
            }
        super().tidy()


class RuledAttributes(Attributes):
    """Shows masked entries as empty."""

    __slots__ = ()

    tree: RuledTree

    def entry(self, node: Node, st: os.stat_result, ours: bool) -> bytes:
        if not (node.gone and self.tree.is_masked(node)):
            return super().entry(node, st, ours)
        return super().entry(node, os.fstat(self.tree.void), False)

    def shown(self, node: Node, st: os.stat_result) -> tuple[int, int, int, int]:
        if not (node.gone and self.tree.is_masked(node)):
            return super().shown(node, st)
        owner = self.squash or (st.st_uid, st.st_gid)
        if node.kind == DIRECTORY:
            return DIRECTORY | 0o555, 2, *owner
        return node.kind | 0o444, 1, *owner


class RuledChanger(Changer):
    """Refuses what the rules do."""

    tree: RuledTree

    def may_create(self, parent: Node, name: bytes) -> None:
        self._unruled(self.tree.at(parent, name))
        super().may_create(parent, name)

    @staticmethod
    def _unruled(state: int) -> None:
        if state & HIDDEN:
            raise fail(errno.EACCES)
        if state & RULED:
            raise fail(errno.EROFS)

    def may_change(self, node: Node) -> None:
        """Whether a node's contents or attributes may be changed."""
        self._unruled(self.tree.verdict(node))
        if node.kind == stat.S_IFREG and (node.indexed or self._has_other_names(node)):
            raise fail(errno.EACCES)

    def _has_other_names(self, node: Node) -> bool:
        return not (node.upper or node.gone) and self.tree.status(node).st_nlink > 1

    def remove(self, parent: Node, name: bytes, *, directory: bool) -> None:
        if self.tree.find(parent, name) is not None:
            self._unruled(self.tree.at(parent, name))
        super().remove(parent, name, directory=directory)

    def must_be_empty(self, node: Node) -> None:
        if self.tree.all_names(node):
            raise fail(errno.ENOTEMPTY)

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        if self.tree.verdict(node):
            raise fail(errno.EACCES)
        super().link(node, parent, name)

    def rename(self, parent: Node, name: bytes, to: Node, new: bytes, flags: int) -> None:
        tree = self.tree
        found = tree.find(parent, name)
        if found is None:
            raise fail(errno.ENOENT)
        before, after = tree.at(parent, name), tree.at(to, new)
        self._unruled(before)
        self._unruled(after)
        moved = [found]
        if flags & kernel.RENAME_EXCHANGE and (other := tree.find(to, new)) is not None:
            moved.append(other)
        if before != after and any(stat.S_ISDIR(st.st_mode) for st, _ in moved):
            raise fail(errno.EACCES)
        super().rename(parent, name, to, new, flags)


class Ruled(Directories):
    """The handlers that change what a node is."""

    changer_type = RuledChanger
    attributes_type = RuledAttributes

    changer: RuledChanger

    @functools.partial(handler, answer=as_opened)
    def open(self, inode: int, flags: int, ctx: Context) -> tuple[int, bool]:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            self.changer.may_change(self.known(inode))
        return cast(tuple[int, bool], Directories.open.__wrapped__(self, inode, flags, ctx))

    @attr_handler
    def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: Context,
    ) -> bytes:
        self.changer.may_change(self.known(inode))
        done = Directories.setattr.__wrapped__(self, inode, attr, fields, fh, ctx)
        return cast(bytes, done)

    def _for_xattr(self, inode: int, name: bytes) -> Node:
        self.changer.may_change(self.known(inode))
        return super()._for_xattr(inode, name)
