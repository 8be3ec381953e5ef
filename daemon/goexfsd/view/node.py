"""Nodes: what the kernel knows of the view, and nothing more.

A node's ``id`` is both the kernel's node id and the inode number that programs see.  Base
entries and their copies show the base's inode number; created entries ``1 << 62 | upper
inode``; the root's index stands in bits 48 and up; whatever does not fit, or is taken, gets a
number derived by hashing.  So numbers are constant over copy-up and over a remount.

A node lives as long as the kernel remembers it (forgets are honoured), is open, or is the
parent that another node's place is relative to.  The table knows no paths and does no I/O.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass

from goexfsd.layer.ledger import Key

Version = tuple[int, int, int]
"""Size, mtime and ctime in ns."""

TOP = 1
CREATED = 1 << 62
HASHED = 1 << 61
ROOT_SHIFT = 48
_HASH = struct.Struct("<QQQQ")


@dataclass(slots=True)
class Aside:
    """A copy of a base file's data in ``work``, not yet in place."""

    name: bytes
    fd: int
    length: int
    st: os.stat_result
    """What the base file was when the copy began."""
    attempt: int


@dataclass(frozen=True, slots=True)
class Held:
    """What a directory held when it was last listed."""

    when: int
    """Monotonic ns."""
    parts: tuple[int, ...]


class Node:
    """One file or directory.

    A directory has an ``upper`` part, a ``lower`` part, or both; anything else exactly one.  A
    node that is ``gone`` has no name any more: ``fd`` is what is left of it.
    """

    __slots__ = (
        "acl",
        "aside",
        "fd",
        "gone",
        "id",
        "indexed",
        "key",
        "kind",
        "listed",
        "lookups",
        "lower",
        "lower_fd",
        "more",
        "name",
        "nameless",
        "opens",
        "order",
        "parent",
        "passed",
        "plain",
        "readable",
        "redirect",
        "refs",
        "root",
        "subdirs",
        "through",
        "times",
        "told",
        "upper",
        "upper_fd",
        "upper_ino",
        "version",
        "watch",
        "writable",
    )

    def __init__(self, number: int, kind: int, root: int, parent: Node | None, name: bytes) -> None:
        self.id = number
        self.kind = kind
        """The S_IFMT bits."""
        self.root = root
        """Index of the root that it lies below; -1 for the directory of all roots."""
        self.lookups = 0
        """What the kernel still has to forget."""
        self.refs = 0
        """Places of other nodes that are relative to this one."""
        self.parent = parent
        self.name = name
        self.more: set[tuple[Node, bytes]] | None = None
        """Further names of a file with hard links."""
        self.upper = False
        self.upper_ino = 0
        self.lower = False
        self.key: Key | None = None
        """The base entry that it shows, or (with hard links) is the copy of."""
        self.redirect: bytes | None = None
        """A directory's path in the base, where it is not simply below its parent's."""
        self.indexed = False
        """The copy of a base file with several names: it lives in the layer's index."""
        self.upper_fd = -1
        self.lower_fd = -1
        self.fd = -1
        """Backing file of an open (or gone) node."""
        self.readable = False
        self.writable = False
        self.opens = 0
        self.through = 0
        """The backing file that its handles go to past the view; 0: none, they do not."""
        self.passed = False
        """It has been open so since the kernel last kept pages of it."""
        self.gone = False
        self.nameless = False
        """Made by O_TMPFILE, and without a name yet."""
        self.acl: bool | None = None
        """Whether a directory has a default ACL; None: not asked yet."""
        self.order: list[bytes | None] | None = None
        """Where a directory's names have been listed: one that stays keeps its position, and what
        was at one that is empty has gone."""
        self.subdirs: int | None = None
        """How many more subdirectories a directory has than its lower part; None: not counted."""
        self.plain = False
        """A file known to have no capabilities (the kernel asks before each write)."""
        self.listed: Held | None = None
        """Of a directory, what the kernel may have kept of it."""
        self.watch = 0
        """The watch of a directory's lower part; 0: none was tried, less: it has none."""
        self.times = 0
        """When the lower part of a merged directory was last looked at (monotonic ns)."""
        self.told: Version = (0, 0, 0)
        """Of a base entry, what the kernel was told last."""
        self.version: Version | None = None
        """Of a file of a live base, what it was when it was last read."""
        self.aside: Aside | None = None
        """A copy of a large base file made beside, waiting for its copy-up."""


class Table:
    """All nodes, by id, by upper inode, and by base entry."""

    __slots__ = ("by_id", "dropped", "lowers", "uppers")

    def __init__(self) -> None:
        self.by_id: dict[int, Node] = {}
        self.uppers: dict[int, Node] = {}
        """Upper inode -> node."""
        self.lowers: dict[Key, Node] = {}
        """Base entry -> node that shows it (or, with hard links, its copy)."""
        self.dropped: list[Node] = []
        """Nodes that are no more; whoever holds their descriptors closes them."""

    def add(self, node: Node) -> None:
        self.by_id[node.id] = node
        if node.parent is not None:
            node.parent.refs += 1

    def place_upper(self, node: Node, upper_ino: int) -> None:
        node.upper = True
        node.upper_ino = upper_ino
        self.uppers[upper_ino] = node

    def place_lower(self, node: Node, key: Key) -> None:
        node.key = key
        self.lowers[key] = node

    def unplace(self, node: Node) -> None:
        """Nothing will be found to be this node any more."""
        if self.uppers.get(node.upper_ino) is node:
            del self.uppers[node.upper_ino]
        self.leave_lower(node)

    def leave_lower(self, node: Node) -> None:
        if node.key is not None and self.lowers.get(node.key) is node:
            del self.lowers[node.key]

    # -- names -----------------------------------------------------------------------------

    def bind(self, node: Node, parent: Node, name: bytes) -> None:
        """``node`` has (at least) this name."""
        if node.parent is parent and node.name == name:
            return
        if node.parent is None:
            node.parent, node.name = parent, name
            parent.refs += 1
            return
        if node.more is None:
            node.more = set()
        if (parent, name) not in node.more:
            node.more.add((parent, name))
            parent.refs += 1

    def move(self, node: Node, parent: Node, name: bytes) -> None:
        """This is the only name now."""
        for old, _ in node.more or ():
            self._release(old)
        node.more = None
        old_parent = node.parent
        parent.refs += 1
        node.parent, node.name = parent, name
        if old_parent is not None:
            self._release(old_parent)

    def prefer(self, node: Node, parent: Node, name: bytes) -> None:
        """Make one of a file's names its first."""
        if node.parent is None or (node.parent is parent and node.name == name):
            return
        if node.more is not None and (parent, name) in node.more:
            node.more.discard((parent, name))
            node.more.add((node.parent, node.name))
            node.parent, node.name = parent, name

    def unbind(self, node: Node, parent: Node, name: bytes) -> bool:
        """The name is gone; True if a known one is left."""
        if node.more and (parent, name) in node.more:
            node.more.discard((parent, name))
            self._release(parent)
        elif node.parent is parent and node.name == name:
            self._release(parent)
            node.parent = None
            if node.more:
                node.parent, node.name = node.more.pop()
        return node.parent is not None

    def _release(self, parent: Node) -> None:
        parent.refs -= 1
        self.collect(parent)

    # -- life --------------------------------------------------------------------------------

    def idle(self, node: Node) -> bool:
        return not (node.lookups or node.opens or node.refs or node.id == TOP)

    def collect(self, node: Node) -> None:
        """Drop the node if nobody knows it any more, and then its parents likewise."""
        waiting = [node]
        while waiting:
            one = waiting.pop()
            if not self.idle(one) or self.by_id.get(one.id) is not one:
                continue
            del self.by_id[one.id]
            self.unplace(one)
            self.dropped.append(one)
            parents = [one.parent, *(parent for parent, _ in one.more or ())]
            one.parent, one.more = None, None
            for parent in parents:
                if parent is not None:
                    parent.refs -= 1
                    waiting.append(parent)

    # -- numbers -----------------------------------------------------------------------------

    def number(self, preferred: int) -> int:
        """``preferred``, or a number derived from it if a living node has that."""
        attempt = 0
        number = preferred
        while number in self.by_id or number <= TOP:
            attempt += 1
            number = _hashed(preferred, attempt, 0, 0)
        return number


def base_number(key: Key, root_dev: int) -> int:
    """The inode number to show for a base entry."""
    root, dev, ino = key
    if dev == root_dev and TOP < ino < 1 << ROOT_SHIFT:
        return root << ROOT_SHIFT | ino
    return _hashed(root, dev, ino, 1)


def second_number(key: Key) -> int:
    """For a base entry whose own number belongs to an earlier one's copy."""
    root, dev, ino = key
    return _hashed(root, dev, ino, 2)


def created_number(upper_ino: int) -> int:
    """The inode number to show for what the session made."""
    return CREATED | upper_ino


def _hashed(*parts: int) -> int:
    data = _HASH.pack(*(part & 0xFFFFFFFFFFFFFFFF for part in parts))
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return HASHED | int.from_bytes(digest, "little") & (HASHED - 1)
