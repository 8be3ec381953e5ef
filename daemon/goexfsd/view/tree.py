"""The merged tree: which node an entry is, and what a directory shows.

A name leads to an upper entry, or to a base entry that nothing in the upper hides; the node for
it is found by its upper inode or its base identity, or made.  It reads; ``changer.py`` writes.
It knows nothing of the kernel's requests.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence

from goexfsd.layer.copyup import open_base
from goexfsd.layer.format import is_whiteout
from goexfsd.layer.ledger import Key
from goexfsd.layer.writer import Layer, fd_path
from goexfsd.view.node import Node, base_number, created_number, second_number
from goexfsd.view.places import DIRECTORY, STAGING, Places

_KIND = 0o170000
_ENCODING = sys.getfilesystemencoding()
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Tree(Places):
    """The nodes of one view, made as they are found."""

    def __init__(self, layer: Layer, root_fds: Sequence[int]) -> None:
        super().__init__(layer, root_fds)
        single = len(self.root_fds) == 1
        for index in range(len(self.root_fds)):
            self.roots.append(self._root_node(index, single))

    def _root_node(self, index: int, single: bool) -> Node:
        st = os.fstat(self.root_fds[index])
        key = (index, st.st_dev, st.st_ino)
        if single:
            node = self.top
        else:
            number = self.table.number(base_number(key, st.st_dev))
            node = Node(number, DIRECTORY, index, self.top, self.layer.root_names[index])
            node.refs = 1  # never dropped
            self.table.add(node)
        node.lower = True
        node.redirect = b""
        self.table.place_lower(node, key)
        self.attach_root(node)
        return node

    def attach_root(self, node: Node) -> None:
        """Find out whether a root's own directory has been copied up in this layer."""
        st = os.stat(
            self.layer.root_names[node.root], dir_fd=self.layer.upper_fd, follow_symlinks=False
        )
        node.upper = False
        if st.st_ino in self.ledger.copies:
            self.table.place_upper(node, st.st_ino)

    def node(self, parent: Node, name: bytes, st: os.stat_result, upper: bool) -> Node:
        """The node of an entry just found, made if need be."""
        table = self.table
        if upper:
            node = table.uppers.get(st.st_ino)
            if node is None:
                return self._new_node(parent, name, st, True)
            if node.kind == DIRECTORY:
                if node.parent is not parent or node.name != name:
                    table.move(node, parent, name)
            else:
                table.bind(node, parent, name)
            if node.gone:
                self.revive(node)
            return node
        key = (parent.root, st.st_dev, st.st_ino)
        node = table.lowers.get(key)
        if node is not None:
            if stat.S_IFMT(st.st_mode) == node.kind and self._rebind_lower(node, parent, name, st):
                return node
            table.leave_lower(node)  # the number went to something else
        return self._new_node(parent, name, st, False)

    def _rebind_lower(self, node: Node, parent: Node, name: bytes, st: os.stat_result) -> bool:
        """Let a node have the name that it was found under; False if it is another's by now.

        A number that is under another name may be that of a new entry, which got it from one
        that was deleted: the kernel may still believe that the old name leads to this node.
        """
        if node.parent is parent and node.name == name:
            return True
        linked = st.st_nlink > 1 or (node.indexed and self._copy_of(node.key, st) is not None)
        if node.kind != DIRECTORY and linked:
            self.table.bind(node, parent, name)
        elif node.told[:2] != (st.st_size, st.st_mtime_ns):
            return False
        else:  # the base renamed it
            self.drop_lower_fd(node)
            self.table.move(node, parent, name)
        if node.gone:
            self.revive(node)
        return True

    def revive(self, node: Node) -> None:
        """A node without known name was found under one after all (a hard link)."""
        node.gone = False
        if not node.opens:
            self.close_file(node)

    def preferred(self, parent: Node, st: os.stat_result, upper: bool) -> int:
        """The inode number that an entry just found ought to have."""
        if upper:
            key = self.ledger.copies.get(st.st_ino)
            if key is None:
                return created_number(st.st_ino)
            return base_number(key, self.root_devs[key[0]])
        key = (parent.root, st.st_dev, st.st_ino)
        if key in self.ledger.copied and self._copy_of(key, st) is None:
            return second_number(key)  # its number is that of a file that was copied up
        return base_number(key, self.root_devs[parent.root])

    def _copy_of(self, key: Key | None, st: os.stat_result) -> os.stat_result | None:
        """The copy of a base file with several names that is found under one of them.

        One that has lost its other names since is that file still, if it did not change otherwise:
        its number may be another's by now.
        """
        if key is None or (st.st_nlink <= 1 and not self.ledger.is_linked(key, st)):
            return None
        return self.layer.indexed(key)

    def _new_node(self, parent: Node, name: bytes, st: os.stat_result, upper: bool) -> Node:
        if not upper:
            key = (parent.root, st.st_dev, st.st_ino)
            if key not in self.ledger.copied:
                return self._base_node(parent, name, st, key)
            copy = self._copy_of(key, st)
            if copy is not None and copy.st_ino in self.table.uppers:
                known = self.table.uppers[copy.st_ino]
                self.table.bind(known, parent, name)
                return known
        number = self.table.number(self.preferred(parent, st, upper))
        node = Node(number, stat.S_IFMT(st.st_mode), parent.root, parent, name)
        self.table.add(node)
        self.describe(node, parent, name, st, upper)
        return node

    def _base_node(self, parent: Node, name: bytes, st: os.stat_result, key: Key) -> Node:
        """A node for a base entry that the layer knows nothing of: what most of them are."""
        table = self.table
        number = table.number(base_number(key, self.root_devs[parent.root]))
        node = Node(number, st.st_mode & _KIND, parent.root, parent, name)
        table.by_id[number] = node
        parent.refs += 1
        node.key = key
        table.lowers[key] = node
        node.lower = True
        return node

    def describe(
        self, node: Node, parent: Node, name: bytes, st: os.stat_result, upper: bool
    ) -> None:
        """Write into a fresh node what an entry just found is."""
        table = self.table
        if upper:
            table.place_upper(node, st.st_ino)
            key = self.ledger.copies.get(st.st_ino)
            if node.kind == DIRECTORY:
                self._read_markers(node, parent, name)
            elif key in self.ledger.links and key is not None and self.layer.indexed(key):
                node.indexed = True
                table.place_lower(node, key)
            return
        key = (parent.root, st.st_dev, st.st_ino)
        table.place_lower(node, key)
        copy = self._copy_of(key, st) if key in self.ledger.copied else None
        if copy is not None:
            node.indexed = True
            table.place_upper(node, copy.st_ino)
        else:
            node.lower = True

    def _read_markers(self, node: Node, parent: Node, name: bytes) -> None:
        at = self.upper_fd(parent)
        try:
            opaque, node.redirect = self.layer.markers(at, name)
        except PermissionError:  # a directory that its owner may not read
            with self.layer.widened(max(parent.root, 0), [(at, name)]):
                opaque, node.redirect = self.layer.markers(at, name)
        if node.redirect is not None:
            node.lower = True
        elif not opaque:
            node.lower = parent.lower

    def dir_links(self, node: Node, st: os.stat_result) -> int:
        """A directory's link count: two and its subdirectories; 1 where the base does not
        count them (btrfs)."""
        if node.gone:
            return 0
        if node.root < 0:
            return 2 + len(self.roots)
        if not node.upper:
            return max(st.st_nlink, 1)
        links = 2
        if node.lower:
            at = self.merged_fd(node)
            links = os.fstat(at).st_nlink if at >= 0 else 2
            if links < 2:
                return 1
        if node.subdirs is None:
            try:
                node.subdirs = self._count_subdirs(node)
            except PermissionError:
                return 1
        return max(2, links + node.subdirs)

    def _count_subdirs(self, node: Node) -> int:
        """How many more subdirectories a directory shows than its lower part has."""
        count = 0
        fd = os.open(fd_path(self.upper_fd(node)), _LIST)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    count += entry.is_dir(follow_symlinks=False)
                    if node.lower:
                        base = self.base_entry(node, os.fsencode(entry.name))
                        count -= base is not None and stat.S_ISDIR(base.st_mode)
        finally:
            os.close(fd)
        return count

    # -- contents ------------------------------------------------------------------------------

    def names(self, node: Node) -> list[bytes]:
        """The visible names of a directory, once each."""
        if node.root < 0:
            return list(self.layer.root_names)
        if node.gone:
            return []
        found: list[bytes] = []
        seen: set[bytes] = set()
        if node.upper:
            try:
                found, seen = self._upper_names(node)
            except PermissionError:
                with self.lent(node):
                    found, seen = self._upper_names(node)
        at = self.merged_fd(node)
        if at >= 0:
            fd = open_base(fd_path(at), None, _LIST)
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
            if seen:
                found += [name for text in names if (name := _encoded(text)) not in seen]
            else:
                found += [_encoded(text) for text in names]
        if self.is_root(node):
            found = [name for name in found if not name.startswith(STAGING)]
        return found

    def _upper_names(self, node: Node) -> tuple[list[bytes], set[bytes]]:
        """Visible upper names, and all that hide what the base has (whiteouts too)."""
        found: list[bytes] = []
        seen: set[bytes] = set()
        fd = os.open(fd_path(self.upper_fd(node)), _LIST)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    seen.add(name)
                    if not _maybe_whiteout(entry) or not is_whiteout(
                        entry.stat(follow_symlinks=False)
                    ):
                        found.append(name)
        finally:
            os.close(fd)
        return found, seen


def _encoded(name: str) -> bytes:
    """``os.fsencode`` without its questions."""
    return name.encode(_ENCODING, "surrogateescape")


def _maybe_whiteout(entry: os.DirEntry[str]) -> bool:
    return not (
        entry.is_file(follow_symlinks=False)
        or entry.is_dir(follow_symlinks=False)
        or entry.is_symlink()
    )
