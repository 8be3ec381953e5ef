"""A plan in words: what a commit would do, operation by operation, in its order.

Actions: ``save`` a before-image, ``stage`` what is new, then ``widen`` a directory's mode for a
time, ``link`` a further name, ``fill`` a file in place, ``put`` what was staged where nothing
is, ``replace`` an entry by it in one step, ``exchange`` two entries, ``move`` one, ``park`` one on
its way, ``remove`` one, and ``set`` attributes.  Pure.
"""

from __future__ import annotations

from typing import Any

from goexfs.names import to_wire
from goexfsd.commit.draft import Blueprint, on_disk
from goexfsd.commit.places import join
from goexfsd.commit.plan import Node, Op, Slot, path_of

Line = dict[str, Any]
_PLAIN = {"widen": "widen", "fill": "fill", "attrs": "set"}


def operations(blueprint: Blueprint) -> list[Line]:
    """Fields of ``protocol.Operation``, without the root's name: ``root`` is its index."""
    lines = [
        _line("save", item.root, item.path, room=on_disk(item.st))
        for item in blueprint.taken
        if item.role != "attrs"
    ]
    lines += [_line("stage", it.root, it.path, room=it.room) for it in blueprint.staged]
    return lines + [_Words(blueprint).line(op) for op in blueprint.plan.ops]


def _line(
    action: str, root: int, path: bytes, *, other: bytes | None = None, room: int | None = None
) -> Line:
    return {
        "action": action,
        "root": root,
        "path": to_wire(path) if path else ".",
        "to": None if other is None else to_wire(other),
        "bytes": room,
    }


class _Words:
    def __init__(self, blueprint: Blueprint) -> None:
        self._plan, self._paths = blueprint.plan, blueprint.base_paths

    def line(self, op: Op) -> Line:
        node = self._plan.nodes[op.node]
        if op.kind == "link":
            origin = self._plan.nodes[op.other]
            return _line("link", node.root, self._home(origin), other=self._end(node))
        if op.kind in ("move", "swap"):
            return self._moved(node, op)
        return _line(_PLAIN[op.kind], node.root, self._home(node))

    def _moved(self, node: Node, op: Op) -> Line:
        here, there = self._place(node.slots[op.at]), self._place(node.slots[op.at + 1])
        if op.kind == "swap":
            if here is None or there is None:
                return _line("replace", node.root, there or here or b"")
            return _line("exchange", node.root, here, other=there)
        if there is None:
            last = op.at + 2 == len(node.slots)
            return _line("remove" if last else "park", node.root, here or self._home(node))
        if here is None:
            return _line("put", node.root, there)
        return _line("move", node.root, here, other=there)

    def _place(self, slot: Slot) -> bytes | None:
        """A slot's path; None in a staging directory."""
        above = self._plan.nodes[slot[0]]
        return None if above.id in self._plan.stages else join(self._home(above), slot[1])

    def _home(self, node: Node) -> bytes:
        """Where people know an entry: in the base, or where it will be."""
        known = self._paths.get(node.id)
        return path_of(self._plan, node.id) if known is None else known

    def _end(self, node: Node) -> bytes:
        return path_of(self._plan, node.id)
