"""The plan of a commit: nodes, the places each passes through, and ordered operations.

A *node* is one name in play: an entry of the base, or one that was staged.  Its *slots* are the
places (directory node, name) that it takes in turn, the first before the commit, the last after
it.  Wherever a crash stops the operations, every node is in one of its slots and is known there
by its inode number, for nothing is deleted before all is done.  So any operation can tell
whether it has been carried out, each is idempotent, and the list can be run again from its
start, forward to the new state or backward to the old one.

Operations::

    widen  give the owner access to a directory of theirs for the time of the commit
    link   make a further name of a base file, in the staging directory
    fill   put staged bytes into an inode that must stay (it has names elsewhere)
    move   take a node from one slot to a free one
    swap   let two nodes change places in one step
    attrs  set mode, owner, attributes and (not of directories) times

and, when the staging is gone, *finals*: modes and times of directories, which all the rest
disturbs.  Nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from goexfs.errors import StoreFailed
from goexfs.names import to_wire
from goexfsd.commit.faithful import Meta, raw, text
from goexfsd.commit.intent import rows
from goexfsd.layer.origins import Identity

VERSION = 3
STAGE_PREFIX = b".goexfs-stage-"
"""Names with this prefix are never shown in a view."""

Slot = tuple[int, bytes]
"""(id of the directory's node, name in it)."""
OpKind = Literal["widen", "link", "fill", "move", "swap", "attrs"]


@dataclass(slots=True)
class Node:
    id: int
    root: int
    type: str
    ino: int
    """0 while it is not staged yet."""
    dev: int = 0
    """Device of a base entry at planning; 0 for staged ones (not compared)."""
    slots: list[Slot] = field(default_factory=list)
    """Empty for a root."""
    new: bool = False
    """Not in the base before the commit."""
    was: Identity | None = None
    """What a base entry was at planning; what a staged one (no directory) is."""
    stands: Identity | None = None
    """In an undo: what the entry was before the commit that is undone.  Whoever expects that
    may take this node, as it is afterwards, for it."""


@dataclass(slots=True)
class Op:
    kind: OpKind
    node: int
    at: int = 0
    """move, swap: the index of the node's slot before it; it leads to ``at + 1``."""
    other: int = -1
    """swap: the other node; link: the one to link to; fill: the staged bytes; attrs: index."""
    other_at: int = 0


@dataclass(frozen=True, slots=True)
class Attrs:
    """What an ``attrs`` operation sets, and what was before."""

    new: Meta
    old: Meta
    times: bool


@dataclass(frozen=True, slots=True)
class Final:
    """A directory's mode (None: left alone) and times when all is done, or all is taken back."""

    node: int
    mode: int | None
    atime_ns: int
    mtime_ns: int
    old_mode: int | None
    old_atime_ns: int
    old_mtime_ns: int
    kept: bool = True
    """False: the directory is gone after the commit, so this is for the way back only."""


@dataclass(frozen=True, slots=True)
class RootMark:
    """Which directory a root is, over a reboot too."""

    index: int
    name: str
    ino: int
    fsid: int


@dataclass(slots=True)
class Expect:
    """A base entry that the commit takes away, as it was checked."""

    size: int
    mtime_ns: int
    mode: int
    saved: bool = True
    """Its bytes are in the before-images; False: they could not be read in its place."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A committed change, as rebase needs it."""

    kind: str
    root: int
    path: bytes
    """In the view; for a deletion in the base."""
    old_path: bytes | None
    type: str
    upper_ino: int
    part: bool = False
    """The layer's entry stays a change: only a part of it was committed."""


def loss(root: int, path: bytes, what: str) -> dict[str, Any]:
    """Something of an entry that could not be set."""
    return {"root": root, "path": to_wire(path), "what": what}


@dataclass(slots=True)
class Plan:
    commit: str
    roots: list[RootMark]
    partial: bool = False
    nodes: list[Node] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    attrs: list[Attrs] = field(default_factory=list)
    finals: list[Final] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)
    """Nodes of the staging directories."""
    taken: dict[tuple[int, int], Expect] = field(default_factory=dict)
    """(root, inode) of every base entry that goes away, children of directories too."""
    fills: dict[int, int] = field(default_factory=dict)
    """Node that is filled -> number of its before-image."""
    marks: list[Mark] = field(default_factory=list)
    applied: dict[str, int] = field(default_factory=dict)
    """Number of changes by kind."""
    losses: list[dict[str, Any]] = field(default_factory=list)
    """What could not be set as it is in the view (``{"root", "path", "what"}``)."""

    def lines(self) -> Iterator[dict[str, Any]]:
        """The plan for ``intent.write``."""
        yield {
            "plan": VERSION,
            "commit": self.commit,
            "partial": self.partial,
            "roots": [asdict(root) for root in self.roots],
            "stages": self.stages,
            "applied": self.applied,
            "losses": self.losses,
            "fills": list(self.fills.items()),
        }
        yield from rows("nodes", map(_node_row, self.nodes))
        ops = ((op.kind, op.node, op.at, op.other, op.other_at) for op in self.ops)
        yield from rows("ops", ops)
        for attrs in self.attrs:
            old, new = attrs.old.to_json(), attrs.new.to_json()
            yield {"attrs": {"new": new, "old": old, "times": attrs.times}}
        yield from rows("marks", map(_mark_row, self.marks))
        for final in self.finals:
            yield {"final": asdict(final)}
        taken = (
            (*place, it.size, it.mtime_ns, it.mode, it.saved) for place, it in self.taken.items()
        )
        yield from rows("taken", taken)


def _node_row(node: Node) -> list[Any]:
    slots = [each for where, name in node.slots for each in (where, text(name))]
    was = None if node.was is None else node.was.fields()
    stands = None if node.stands is None else node.stands.fields()
    return [node.id, node.root, node.type, node.ino, node.new, was, stands, *slots]


def _node(row: list[Any]) -> Node:
    number, root, kind, ino, new, was, stands, *rest = row
    slots = [(where, raw(name)) for where, name in zip(rest[::2], rest[1::2], strict=True)]
    node = Node(number, root, kind, ino, slots=slots, new=new)
    node.was = None if was is None else Identity(*was)
    node.stands = None if stands is None else Identity(*stands)
    return node


def _mark_row(mark: Mark) -> list[Any]:
    came = None if mark.old_path is None else text(mark.old_path)
    rest = mark.type, mark.upper_ino, mark.part
    return [mark.kind, mark.root, text(mark.path), came, *rest]


def _mark(row: list[Any]) -> Mark:
    kind, root, path, came, *rest = row
    return Mark(kind, root, raw(path), None if came is None else raw(came), *rest)


def path_of(plan: Plan, node: int, *, old: bool = False) -> bytes:
    """Where a node lies below its root after the commit (``old``: before it)."""
    names: list[bytes] = []
    while plan.nodes[node].slots:
        node, name = plan.nodes[node].slots[0 if old else -1]
        names.append(name)
    return b"/".join(reversed(names))


def parse(lines: list[dict[str, Any]]) -> Plan:
    """The plan that ``Plan.lines`` made; StoreFailed if it is of another version."""
    head = lines[0] if lines else {}
    if head.get("plan") != VERSION:
        raise StoreFailed(
            "a pending commit was planned by another version of goexfs",
            hint="start the version that began it: it finishes the commit",
        )
    plan = Plan(
        head["commit"],
        [RootMark(**root) for root in head["roots"]],
        head["partial"],
        stages=head["stages"],
        applied=head["applied"],
        losses=head["losses"],
        fills={int(node): int(image) for node, image in head["fills"]},
    )
    for line in lines[1:]:
        _parse_line(plan, line)
    return plan


def _parse_line(plan: Plan, line: dict[str, Any]) -> None:
    if "nodes" in line:
        plan.nodes += map(_node, line["nodes"])
    elif "ops" in line:
        plan.ops += (Op(*row) for row in line["ops"])
    elif "attrs" in line:
        value = line["attrs"]
        new, old = Meta.from_json(value["new"]), Meta.from_json(value["old"])
        plan.attrs.append(Attrs(new, old, value["times"]))
    elif "final" in line:
        plan.finals.append(Final(**line["final"]))
    elif "marks" in line:
        plan.marks += map(_mark, line["marks"])
    elif "taken" in line:
        for root, ino, *expect in line["taken"]:
            plan.taken[root, ino] = Expect(*expect)
