"""The order of moves: any rearrangement of names, cycles and nestings included.

A small model of who sits where.  Each mover in turn goes to its target; who sits there changes
places with it (so a replaced file switches in one step, and no name is missing meanwhile), and
is moved on when its own turn comes.  A directory that has to go into something that lies inside
it waits until that has been parked in the staging directory.  Every step is one rename, and
each mover needs at most two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from goexfs.errors import Unsupported
from goexfsd.commit.plan import Node, Op, Slot


class Board:
    """Who sits where, while the moves are written down."""

    def __init__(self, nodes: list[Node], park: Callable[[Node], Slot]) -> None:
        self._nodes = nodes
        self._park_slot = park
        self._sits: dict[Slot, Node] = {}
        self._waiting: set[int] = set()
        self.ops: list[Op] = []

    def arrange(self, targets: Iterable[tuple[Node, Slot]]) -> None:
        """Write down the moves that bring every node to its target."""
        plan = list(targets)
        for node, _ in plan:
            self._sits[node.slots[-1]] = node
            self._waiting.add(node.id)
        for node, slot in plan:
            self._bring(node, slot)
            self._waiting.discard(node.id)

    def _bring(self, node: Node, slot: Slot) -> None:
        if node.slots[-1] == slot:
            return
        while node.type == "dir" and self._inside(slot[0], node.id):
            self._park(self._nodes[self._blocker(slot[0], node.id)])
        there = self._sits.get(slot)
        if there is None:
            self._move(node, slot)
            return
        if there.type == "dir" and self._inside(node.slots[-1][0], there.id):
            self._park(node)
        self._swap(node, there)

    def _inside(self, directory: int, node: int) -> bool:
        """Whether ``directory`` is ``node`` or lies below it now."""
        while directory != node:
            slots = self._nodes[directory].slots
            if not slots:
                return False
            directory = slots[-1][0]
        return True

    def _blocker(self, directory: int, node: int) -> int:
        """The uppermost node between the two that has still to move."""
        found = None
        while directory != node:
            if directory in self._waiting:
                found = directory
            directory = self._nodes[directory].slots[-1][0]
        if found is None:
            raise Unsupported("a directory would have to be moved into itself")
        return found

    def _park(self, node: Node) -> None:
        self._move(node, self._park_slot(node))

    def _move(self, node: Node, slot: Slot) -> None:
        self._sits.pop(node.slots[-1], None)
        self.ops.append(Op("move", node.id, len(node.slots) - 1))
        node.slots.append(slot)
        self._sits[slot] = node

    def _swap(self, node: Node, there: Node) -> None:
        here, slot = node.slots[-1], there.slots[-1]
        same = node.ino and node.ino == there.ino and node.root == there.root
        if not same:
            ats = len(node.slots) - 1, len(there.slots) - 1
            self.ops.append(Op("swap", node.id, ats[0], there.id, ats[1]))
        elif node.new or there.new:
            raise Unsupported("two names of one file would have to change places")
        # Two names of one inode: to change places is to do nothing.
        node.slots.append(slot)
        there.slots.append(here)
        self._sits[slot], self._sits[here] = node, there
