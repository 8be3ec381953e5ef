"""What a commit left: the identity of every entry in play, for the undo that may come.

It is looked at twice: when all operations are done (record ``applied``), and again when the
staging is gone (record ``tidied``), for removing other names of a file changes its ctime, and
directories get their modes and times last.  The second look only ever refreshes the first:
what somebody else changed meanwhile keeps the identity that it should have, or gets none, and so
is a conflict for an undo, never its casualty.
"""

from __future__ import annotations

import stat
from typing import Any, NamedTuple

from goexfs.names import to_wire
from goexfsd.commit import intent
from goexfsd.commit.base import Base
from goexfsd.commit.places import join
from goexfsd.commit.plan import Node, Plan, path_of
from goexfsd.layer.origins import Identity

Line = dict[str, Any]


class Left(NamedTuple):
    """An entry as a commit left it."""

    node: int
    now: Identity
    stands: Identity | None
    """See ``plan.Node``."""


def in_place(plan: Plan) -> list[Node]:
    """The nodes that are in the base after the commit."""
    stages = set(plan.stages)
    away: dict[int, bool] = dict.fromkeys(stages, True)

    def is_away(number: int) -> bool:
        chain = []
        known = away.get(number)
        if known is not None:
            return known
        while number not in away and plan.nodes[number].slots:
            chain.append(number)
            number = plan.nodes[number].slots[-1][0]
        found = away.get(number, False)
        away.update(dict.fromkeys(chain, found))
        return found

    # Only directories are asked about, and so remembered.
    return [
        node
        for node in plan.nodes
        if not (is_away(node.slots[-1][0]) if node.slots else False) and node.id not in stages
    ]


def applied(plan: Plan, base: Base) -> list[Line]:
    """Lines for the record ``applied``."""
    look = _Look(plan, base)
    found = ((node, look.left(node)) for node in in_place(plan))
    return list(intent.rows("now", (_row(node, now) for node, now in found if now is not None)))


def _row(node: Node, now: Identity) -> list[Any]:
    return [node.id, now.fields(), None if node.stands is None else node.stands.fields()]


def left(dir_fd: int) -> list[Left] | None:
    """What a commit left, from both records; None if they are not complete."""
    first, second = intent.read(dir_fd, intent.APPLIED), intent.read(dir_fd, intent.TIDIED)
    if first is None or second is None:
        return None
    found = {row[0]: row for row in intent.unrow((*first, *second), "now")}
    return [
        Left(number, Identity(*now), None if stands is None else Identity(*stands))
        for number, now, stands in found.values()
    ]


def tidied(plan: Plan, base: Base, before: list[Line]) -> list[Line]:
    """Lines for the record ``tidied``: those of ``applied`` that the tidying may have changed,
    as they are by now: directories, and files that had another name in the staging."""
    here = {node.id for node in in_place(plan)}
    elsewhere = {node.ino for node in plan.nodes if node.id not in here}
    found: list[list[Any]] = []
    for number, fields, _ in intent.unrow(before, "now"):
        node = plan.nodes[number]
        if node.type != "dir" and node.ino not in elsewhere:
            continue
        was = Identity(*fields)
        try:
            st = base.look(node.root, path_of(plan, number))
        except PermissionError:
            st = None  # below a directory whose mode, set by now, keeps its owner out
        if st is not None:
            now = Identity.of(st, base.root_devs[node.root])
            was = now if _only_tidied(was, now) else was
        found.append(_row(node, was))
    return list(intent.rows("now", found))


def _only_tidied(was: Identity, now: Identity) -> bool:
    if (was.dev, was.ino, stat.S_IFMT(was.mode)) != (now.dev, now.ino, stat.S_IFMT(now.mode)):
        return False
    if stat.S_ISDIR(now.mode):
        return True
    return (was.size, was.mtime_ns, was.mode) == (now.size, now.mtime_ns, now.mode)


class _Look:
    def __init__(self, plan: Plan, base: Base) -> None:
        self._plan, self._base = plan, base
        # By inode: what was done to a file under one of its names is true of all of them.
        self._attrs = {
            self._inode(op.node): plan.attrs[op.other] for op in plan.ops if op.kind == "attrs"
        }
        self._filled = {self._inode(number) for number in plan.fills}
        self._lost = {(loss["root"], loss["path"]) for loss in plan.losses}
        self._paths: dict[int, bytes] = {}
        """Of directories."""

    def _inode(self, number: int) -> tuple[int, int]:
        node = self._plan.nodes[number]
        return node.root, node.ino

    def left(self, node: Node) -> Identity | None:
        """The identity of a node that is as the commit left it; None if it is not."""
        path = self._path(node)
        st = self._base.look(node.root, path)
        if st is None or st.st_ino != node.ino:
            return None
        now = Identity.of(st, self._base.root_devs[node.root])
        if stat.S_ISDIR(now.mode) or (self._lost and (node.root, to_wire(path)) in self._lost):
            return now
        return now if self._as_meant(node, now) else None

    def _path(self, node: Node) -> bytes:
        if not node.slots:
            return b""
        above, name = node.slots[-1]
        if above not in self._paths:
            self._paths[above] = path_of(self._plan, above)
        return join(self._paths[above], name)

    def _as_meant(self, node: Node, now: Identity) -> bool:
        if node.was is None:
            return True
        size, mtime_ns = node.was.size, node.was.mtime_ns
        attrs = self._attrs.get((node.root, node.ino))
        if (node.root, node.ino) in self._filled and attrs is not None:
            size = attrs.new.size
        if attrs is not None and attrs.times:
            mtime_ns = attrs.new.mtime_ns
        return (size, mtime_ns) == (now.size, now.mtime_ns)
