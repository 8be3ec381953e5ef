"""Where the nodes of a plan are right now, found by inode number along their slots.

A directory's descriptor stays with the directory wherever it is moved, so those are kept (a few
hundred).  Everything is reached from the roots' kept descriptors by single names, no symlink
followed: nothing that happens to paths meanwhile can lead outside a root.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Sequence

from goexfsd import kernel
from goexfsd.commit.base import GONE, type_of
from goexfsd.commit.faithful import HANDLE
from goexfsd.commit.plan import Node, Slot

_KEEP = 512


class Lost(Exception):
    """A node is in none of its places: somebody took it away in the middle of the commit."""

    def __init__(self, node: Node) -> None:
        super().__init__(f"node {node.id} is in none of its places")
        self.node = node


class Ground:
    """The roots during a commit."""

    def __init__(self, nodes: Sequence[Node], root_fds: Sequence[int]) -> None:
        self._nodes, self._root_fds = nodes, root_fds
        self._kept: OrderedDict[int, int] = OrderedDict()
        self._sought: set[int] = set()
        """Directories that are being looked for."""
        self._wanted = -1
        """A node whose directory must stay open while another is opened."""

    def directory(self, node_id: int) -> int:
        """A descriptor of a directory node; Lost if it cannot be found."""
        node = self._nodes[node_id]
        if not node.slots:
            return self._root_fds[node.root]
        fd = self._kept.get(node_id)
        if fd is not None:
            self._kept.move_to_end(node_id)
            return fd
        at = self._seek(node)
        if at is None:
            raise Lost(node)
        above, name = self.at(node.slots[at])
        fd = kernel.open_beneath(above, name, os.O_PATH | os.O_DIRECTORY)
        if os.fstat(fd).st_ino != node.ino:
            os.close(fd)
            raise Lost(node)
        self._kept[node_id] = fd
        if len(self._kept) > _KEEP:
            self._drop_one()
        return fd

    def _seek(self, node: Node) -> int | None:
        """``where`` of a directory, which is in no place that lies within itself: a plan may move
        a directory into what was in it."""
        if node.id in self._sought:
            return None
        self._sought.add(node.id)
        try:
            return self.where(node)
        finally:
            self._sought.discard(node.id)

    def _drop_one(self) -> None:
        if self._wanted in self._kept:
            self._kept.move_to_end(self._wanted)
        os.close(self._kept.popitem(last=False)[1])

    def two(self, one: Slot, other: Slot) -> tuple[int, int]:
        """The descriptors of two slots' directories, both valid until the next is asked for."""
        first = self.directory(one[0])
        if one[0] == other[0]:
            return first, first
        self._wanted = one[0]
        try:
            return first, self.directory(other[0])
        finally:
            self._wanted = -1

    def at(self, slot: Slot) -> tuple[int, bytes]:
        """(directory descriptor, name) of a slot.  Lost if the directory is."""
        return self.directory(slot[0]), slot[1]

    def where(self, node: Node) -> int | None:
        """The index of the slot that the node is in now, the latest if several fit."""
        for index in reversed(range(len(node.slots))):
            st = self.look(node.slots[index])
            if st is not None and st.st_ino == node.ino and type_of(st.st_mode) == node.type:
                return index
        return None

    def sits(self, node: Node, at: int) -> bool:
        """Whether a node is in its slot ``at``, and so in no other: never if it comes there twice.

        One look where ``where`` takes several; what it does not know, that tells.
        """
        slots = node.slots
        if slots.count(slots[at]) > 1:
            return False
        st = self.look(slots[at])
        return st is not None and st.st_ino == node.ino and type_of(st.st_mode) == node.type

    def look(self, slot: Slot) -> os.stat_result | None:
        """lstat of what is in a slot; None if nothing, or if its directory is gone."""
        try:
            directory, name = self.at(slot)
            return os.stat(name, dir_fd=directory, follow_symlinks=False)
        except Lost:
            return None
        except OSError as error:
            if error.errno in GONE:
                return None
            raise

    def handle(self, node: Node) -> int:
        """A new O_PATH descriptor of the node itself; Lost if it cannot be found."""
        if not node.slots:
            return os.dup(self._root_fds[node.root])
        at = self.where(node)
        if at is None:
            raise Lost(node)
        fd = kernel.open_beneath(*self.at(node.slots[at]), HANDLE)
        if os.fstat(fd).st_ino != node.ino:
            os.close(fd)
            raise Lost(node)
        return fd

    def forget(self, node_id: int) -> None:
        """Do not keep this directory's descriptor any longer."""
        fd = self._kept.pop(node_id, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()

    def is_directory(self, slot: Slot) -> bool:
        """Whether a directory sits in the slot."""
        st = self.look(slot)
        return st is not None and stat.S_ISDIR(st.st_mode)
