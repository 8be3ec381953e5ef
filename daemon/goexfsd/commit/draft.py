"""What every plan is drawn from: nodes, staging directories, moves; whatever it is to reach.

``build`` draws the plan of a commit from a change list, ``revert`` that of an undo from the plan
it takes back.  They say which entry is to end up where, which goes, what is staged; the order of
the operations, the staging directories and the widened ones follow here.

It looks at the base and changes nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from goexfs.errors import Denied
from goexfs.names import display
from goexfsd.commit.base import Base
from goexfsd.commit.faithful import Meta, proc
from goexfsd.commit.order import Board
from goexfsd.commit.places import join
from goexfsd.commit.plan import (
    STAGE_PREFIX,
    Expect,
    Node,
    Op,
    Plan,
    RootMark,
    Slot,
)
from goexfsd.layer.changes import Root
from goexfsd.layer.origins import Identity


@dataclass(slots=True)
class Staged:
    """Something to make in the staging area before the intent."""

    node: int
    root: int
    path: bytes
    """Where it will be, to name it to people."""
    type: str
    room: int
    """Bytes on disk that it may take."""
    content: Any
    """What the plan's source gives bytes and attributes for."""
    link_to: int | None = None
    """A further name of another staged node."""
    bytes_only: bool = False
    """Content to be filled into a base inode."""


class Contents(Protocol):
    """Where the bytes and attributes of staged things come from."""

    def meta(self, content: Any, /) -> Meta:
        """All attributes that it is to have."""

    def data(self, content: Any, /) -> int | bytes:
        """Its bytes, or a readable descriptor of them, for the caller to close."""


@dataclass(slots=True)
class Taken:
    """A base entry of which a before-image is needed."""

    root: int
    path: bytes
    st: os.stat_result
    role: str
    """gone: it leaves its name; filled, attrs: its bytes or attributes are replaced in place."""
    node: int | None


@dataclass(slots=True)
class Blueprint:
    """A plan and what has to be prepared for it."""

    plan: Plan
    staged: list[Staged] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    base_paths: dict[int, bytes] = field(default_factory=dict)
    """Node -> its path in the base, for those that are in it."""


class Draft:
    """A plan in the making."""

    def __init__(self, plan: Plan, roots: Sequence[Root], base: Base) -> None:
        self._plan, self._base = plan, base
        self._me = os.geteuid()
        self._out = Blueprint(plan)
        self._tops: list[Node] = []
        """The roots' nodes."""
        self._stage_at: dict[int, int] = {}
        """Node of a directory -> node of the staging directory made in it."""
        self._stage_of: dict[int, int] = {}
        """Node of a directory -> node of the staging directory for things in it."""
        self._domains: dict[int, tuple[int, int]] = {}
        self._targets: list[tuple[int, Node, Slot]] = []
        self._targeted: set[int] = set()
        self._gone: dict[int, Node] = {}
        self._attrs: dict[int, int] = {}
        """Node -> index of the attributes that it gets."""
        self._fills: list[Op] = []
        self._links: list[Op] = []
        self._counter = 0
        for root in roots:
            node = self._node(root.index, "dir", os.fstat(base.root_fds[root.index]))
            self._tops.append(node)
            self._out.base_paths[node.id] = b""

    def _node(
        self, root: int, kind: str, st: os.stat_result | None, slot: Slot | None = None
    ) -> Node:
        node = Node(len(self._plan.nodes), root, kind, 0 if st is None else st.st_ino)
        if st is None:
            node.new = True
        else:
            node.dev = st.st_dev
            node.was = Identity.of(st, self._base.root_devs[root])
        if slot is not None:
            node.slots.append(slot)
        self._plan.nodes.append(node)
        return node

    def _place(self, rank: int, node: Node, slot: Slot) -> None:
        self._targets.append((rank, node, slot))
        self._targeted.add(node.id)

    def _domain(self, directory: Node) -> tuple[int, int]:
        """(device, mount): names can be moved only within one."""
        known = self._domains.get(directory.id)
        if known is None:
            if directory.new:
                known = self._domain(self._plan.nodes[directory.slots[0][0]])
            else:
                path = self._out.base_paths[directory.id]
                st = self._base.lstat(directory.root, path)
                known = st.st_dev, self._base.extra(directory.root, path)[1]
            self._domains[directory.id] = known
        return known

    def _stage(self, directory: Node) -> int:
        """The staging directory for ``directory``: in the uppermost writable one above it that
        lies on the same file system and mount."""
        known = self._stage_of.get(directory.id)
        if known is None:
            if directory.new:
                known = self._stage(self._plan.nodes[directory.slots[0][0]])
            else:
                known = self._stage_in(self._stage_home(directory))
            self._stage_of[directory.id] = known
        return known

    def _stage_home(self, directory: Node) -> Node:
        wanted, home = self._domain(directory), None
        chain = [directory]
        while chain[-1].slots:
            chain.append(self._plan.nodes[chain[-1].slots[0][0]])
        for node in reversed(chain):
            if self._domain(node) == wanted and self._writable(node):
                home = node
                break
        if home is None:
            raise self._nowhere(directory)
        return home

    def _nowhere(self, directory: Node) -> Denied:
        path = self._out.base_paths[directory.id]
        name = os.fsencode(self._plan.roots[directory.root].name)
        shown = display(join(name, path) if path else name)
        fd = self._base.directory(directory.root, path)
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            what = f"{shown} is on a read-only file system"
        else:
            what = f"no directory on the way to {shown} is writable"
        return Denied(
            f"the commit cannot be applied: {what}; nothing was changed",
            data={"obstacles": [what]},
        )

    def _stage_in(self, home: Node) -> int:
        known = self._stage_at.get(home.id)
        if known is None:
            node = self._node(
                home.root, "dir", None, (home.id, STAGE_PREFIX + self._plan.commit.encode())
            )
            self._plan.stages.append(node.id)
            known = self._stage_at[home.id] = self._stage_of[node.id] = node.id
            self._domains[node.id] = self._domain(home)
        return known

    def _writable(self, directory: Node) -> bool:
        path = self._out.base_paths[directory.id]
        fd = self._base.directory(directory.root, path)
        return os.access(proc(fd), os.W_OK | os.X_OK)

    def _stage_slot(self, directory: Node, letter: str) -> Slot:
        self._counter += 1
        return self._stage(directory), f"{letter}{self._counter}".encode()

    def _domain_of(self, node: Node) -> tuple[int, int]:
        return self._domain(self._plan.nodes[node.slots[0][0]])

    def _take(self, node: Node, role: str) -> None:
        path = self._out.base_paths[node.id]
        st = self._base.lstat(node.root, path)
        self._out.taken.append(Taken(node.root, path, st, role, node.id))

    def _order(self) -> None:
        arrivals = [(node, slot) for _, node, slot in sorted(self._targets, key=lambda t: t[0])]
        # What takes a name from the staging directory leaves a free place there, and a swap of
        # the two has brought what had the name to that place already.
        free = {slot: node.slots[0] for _, node, slot in self._targets if node.new}
        leaving = []
        for node in self._gone.values():
            above = self._plan.nodes[node.slots[0][0]]
            if above.id not in self._gone:  # else it goes along with its directory
                place = free.get(node.slots[0])
                if place is None or place[0] != self._stage(above):
                    place = self._stage_slot(above, "o")
                leaving.append((node, place))
        board = Board(self._plan.nodes, self._park)
        board.arrange([*arrivals, *leaving])
        attrs = [Op("attrs", node, other=index) for node, index in self._attrs.items()]
        self._plan.ops = [*self._widen(), *self._links, *self._fills, *board.ops, *attrs]

    def _park(self, node: Node) -> Slot:
        return self._stage_slot(self._plan.nodes[node.slots[0][0]], "p")

    def _widen(self) -> list[Op]:
        """Directories of the owner's own that lack, or shall lack, the bits for being changed.

        Their true modes come last of all (``Final``).  The uppermost first: those below are
        reached through them.
        """
        if self._me == 0:
            return []
        found = {node.id: node for node in self._disturbed() + self._movers() + self._redressed()}
        ops = []
        for node in sorted(found.values(), key=self._depth):
            st = self._base.lstat(node.root, self._out.base_paths[node.id])
            index = self._attrs.get(node.id)
            after = st.st_mode if index is None else self._plan.attrs[index].new.mode
            if st.st_uid == self._me and (st.st_mode & 0o300 != 0o300 or after & 0o700 != 0o700):
                ops.append(Op("widen", node.id))
        return ops

    def _redressed(self) -> list[Node]:
        """Base directories that get other attributes."""
        nodes = map(self._plan.nodes.__getitem__, self._attrs)
        return [node for node in nodes if node.type == "dir" and not node.new]

    def _depth(self, node: Node) -> int:
        depth = 0
        while node.slots:
            node = self._plan.nodes[node.slots[0][0]]
            depth += 1
        return depth

    def _disturbed(self) -> list[Node]:
        """Base directories in which a name comes or goes (staging directories too)."""
        ids = {where for node in self._plan.nodes if len(node.slots) > 1 for where, _ in node.slots}
        ids |= {self._plan.nodes[stage].slots[0][0] for stage in self._plan.stages}
        return [node for node in map(self._plan.nodes.__getitem__, sorted(ids)) if not node.new]

    def _movers(self) -> list[Node]:
        """Base directories that get another parent, be it for a moment."""
        return [
            node
            for node in self._plan.nodes
            if node.type == "dir" and not node.new and len({where for where, _ in node.slots}) > 1
        ]

    def _take_gone(self) -> None:
        """Before-images, and the look by which a late change is told, of all that goes."""
        for node in self._gone.values():
            self._take(node, "gone")
            st = self._out.taken[-1].st
            self._plan.taken[node.root, node.ino] = Expect(st.st_size, st.st_mtime_ns, st.st_mode)


def marks_of(roots: Sequence[Root], base: Base) -> list[RootMark]:
    """Which directories the roots are."""
    return [_mark(root, base.root_fds[root.index]) for root in roots]


def _mark(root: Root, fd: int) -> RootMark:
    return RootMark(root.index, root.name, os.fstat(fd).st_ino, os.fstatvfs(fd).f_fsid)


def on_disk(st: os.stat_result | None) -> int:
    """Bytes on disk of a regular file's data; 0 of anything else."""
    return st.st_blocks * 512 if st is not None and stat.S_ISREG(st.st_mode) else 0
