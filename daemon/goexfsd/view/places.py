"""Places: where a node lives, the descriptors that lead there, and what a name leads to.

``place`` is the one function that turns a node into (name, directory descriptor): every
operation goes through it.  Directory descriptors are opened one name at a time, without
following symlinks, relative to the descriptors of the roots and the layer, and kept in a
bounded pool; what was found through a base directory is checked against the identity that the
node was given, so that a base that changes beneath us can make an entry vanish (ESTALE), but
never pass for another.

It makes no nodes (``tree.py``) and changes nothing on disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from goexfsd import kernel
from goexfsd.layer.copyup import READ, open_base
from goexfsd.layer.format import is_whiteout
from goexfsd.layer.writer import Layer, fd_path, in_dir, upper_name
from goexfsd.view.node import TOP, Node, Table

if TYPE_CHECKING:
    from goexfsd.view.watcher import Watcher

STAGING = b".goexfs-stage-"
"""Names at the top of a root that belong to a commit under way."""

DIRECTORY = stat.S_IFDIR
FRESH_NS = 1_000_000_000
"""How long a look at the base may be relied on."""

_PATH_DIR = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)


def vanished(error: OSError) -> OSError:
    """What to tell of a base entry that is no longer where it was found: ESTALE, at which the
    kernel looks the name up again (what it finds then is the answer)."""
    if error.errno in _GONE:
        return OSError(errno.ESTALE, "the base entry is gone")
    return error


Place = tuple[bytes, int]
"""A name and the descriptor of the directory it is in."""


class Places:
    """The nodes of one view with their descriptors."""

    def __init__(self, layer: Layer, root_fds: Sequence[int]) -> None:
        self.layer = layer
        self.ledger = layer.ledger
        self.root_fds = list(root_fds)
        self.root_devs = layer.ledger.root_devs
        self.table = Table()
        self.pool: dict[Node, None] = {}
        """Directory nodes with open descriptors, oldest first."""
        self.pool_limit = 2048
        self.roots: list[Node] = []
        self.stable = [False] * len(self.root_fds)
        """Of each root whether its base cannot change (it is a snapshot)."""
        self.watcher: Watcher | None = None
        """Where the base may change under the view."""
        self.top = Node(TOP, DIRECTORY, 0 if len(self.root_fds) == 1 else -1, None, b"")
        self.table.add(self.top)

    # -- descriptors ---------------------------------------------------------------------------

    def upper_fd(self, node: Node) -> int:
        """The descriptor of a directory's upper part; good until the operation ends."""
        if node.upper_fd >= 0:
            return node.upper_fd
        chain = [node]
        while not self.is_root(node) and node.upper_fd < 0:
            node = self.parent_of(node)
            chain.append(node)
        for one in reversed(chain):
            if one.upper_fd < 0:
                name, at = self.upper_place(one)
                one.upper_fd = os.open(name, _PATH_DIR, dir_fd=at)
                self.pool[one] = None
        return chain[0].upper_fd

    def lower_fd(self, node: Node) -> int:
        """The descriptor of a directory's lower part; OSError if it is no longer there."""
        if node.lower_fd >= 0:
            return node.lower_fd
        chain = [node]
        while node.redirect is None and node.lower_fd < 0:
            node = self.parent_of(node)
            chain.append(node)
        for one in reversed(chain):
            if one.lower_fd < 0:
                self._open_lower(one)
        return chain[0].lower_fd

    def _open_lower(self, node: Node) -> None:
        if node.redirect is not None:
            fd = kernel.open_dir_beneath(self.root_fds[node.root], node.redirect)
        else:
            parent = self.parent_of(node)
            fd = os.open(node.name, _PATH_DIR, dir_fd=parent.lower_fd)
        st = os.fstat(fd)
        key = (node.root, st.st_dev, st.st_ino)
        if key != node.key:
            if not node.upper:
                os.close(fd)
                raise OSError(errno.ESTALE, "the base directory was replaced")
            self.table.leave_lower(node)
            self.unwatch(node)
            node.key = key
        node.lower_fd = fd
        node.times = time.monotonic_ns()
        self.pool[node] = None

    def merged_fd(self, node: Node) -> int:
        """The lower descriptor of a directory that may show the base; -1 if it (now) does not."""
        if not node.lower:
            return -1
        if (
            node.upper
            and node.lower_fd >= 0
            and not self.is_root(node)
            and time.monotonic_ns() - node.times > FRESH_NS
        ):
            self.check_lower(node)
        try:
            return self.lower_fd(node)
        except OSError as error:
            if error.errno in _GONE and node.upper:
                return -1
            raise

    def check_lower(self, node: Node) -> None:
        """Drop a merged directory's lower descriptor if the base has another directory there."""
        node.times = time.monotonic_ns()
        try:
            if node.redirect is not None:
                fd = kernel.open_dir_beneath(self.root_fds[node.root], node.redirect)
                st = os.fstat(fd)
                os.close(fd)
            else:
                above = self.merged_fd(self.parent_of(node))
                st = os.stat(node.name, dir_fd=above, follow_symlinks=False)
        except OSError:
            self.drop_lower_fd(node)
            return
        if node.key is None or node.key[1:] != (st.st_dev, st.st_ino):
            self.drop_lower_fd(node)

    def watch(self, node: Node) -> None:
        """Before a directory of the base is looked into: be told of what changes there."""
        if self.watcher is not None:
            self.watcher.watch(node)

    def unwatch(self, node: Node) -> None:
        if node.watch > 0 and self.watcher is not None:
            self.watcher.leave(node)

    def drop_lower_fd(self, node: Node) -> None:
        if node.lower_fd >= 0:
            os.close(node.lower_fd)
            node.lower_fd = -1

    def drop_fds(self, node: Node) -> None:
        """Close a directory's descriptors."""
        if node.upper_fd >= 0:
            os.close(node.upper_fd)
            node.upper_fd = -1
        self.drop_lower_fd(node)
        self.pool.pop(node, None)

    def close_node(self, node: Node) -> None:
        """Close everything that a node holds."""
        self.drop_fds(node)
        self.close_file(node)

    def close_file(self, node: Node) -> None:
        """Close a node's backing file."""
        if node.fd >= 0:
            os.close(node.fd)
            node.fd = -1
            node.readable = node.writable = False

    def tidy(self) -> None:
        """Between operations: close what dropped nodes held, and the oldest of too many."""
        dropped = self.table.dropped
        while dropped:
            node = dropped.pop()
            if node.gone and node.upper and node.fd >= 0:
                self._bury(node)
            self.unwatch(node)
            self.close_node(node)
        while len(self.pool) > self.pool_limit:
            self.drop_fds(next(iter(self.pool)))

    def _bury(self, node: Node) -> None:
        """Nobody knows a deleted entry any more: the room that it took is free, and what the
        ledger says of it is of no use."""
        speaks = self.ledger.speaks_of(node.upper_ino)
        if self.layer.quota is None and not speaks:
            return
        st = os.fstat(node.fd)
        if st.st_nlink and node.kind != DIRECTORY:
            return  # it has names that the kernel has not asked for
        if self.layer.quota is not None:
            self.layer.quota.spend(-st.st_blocks * 512, -1)
        if speaks and st.st_dev == self.layer.dev:  # else of a layer before a rewind
            self.ledger.forget(node.upper_ino)

    # -- places --------------------------------------------------------------------------------

    def is_root(self, node: Node) -> bool:
        return node.root < 0 or node is self.roots[node.root]

    def parent_of(self, node: Node) -> Node:
        if node.parent is None:
            raise OSError(errno.ESTALE, "no such entry any more")
        return node.parent

    def upper_place(self, node: Node) -> Place:
        """Where the upper part of a node is."""
        if node.indexed and node.key is not None:
            return self.layer.index_name(node.key), self.layer.index_fd
        if self.is_root(node):
            return self.layer.root_names[node.root], self.layer.upper_fd
        if node.more:
            self._best_name(node)
        return node.name, self.upper_fd(self.parent_of(node))

    def lower_place(self, node: Node) -> Place:
        """Where the base entry is that a node without upper part shows."""
        if self.is_root(node):
            return b".", self.root_fds[node.root]
        if node.more:
            self._best_name(node)
        return node.name, self.lower_fd(self.parent_of(node))

    def _best_name(self, node: Node) -> None:
        """Put a name first that leads to the file: another's directory may be closed to us."""
        names = [(self.parent_of(node), node.name), *(node.more or ())]
        for parent, name in names:
            with contextlib.suppress(OSError):
                found = self.find(parent, name)
                if found is not None and self.at_entry(parent, *found) is node:
                    self.table.prefer(node, parent, name)
                    return

    def place(self, node: Node) -> Place:
        """Where a node lives."""
        return self.upper_place(node) if node.upper else self.lower_place(node)

    def path(self, node: Node) -> tuple[bytes, bool]:
        """A path to a node for calls without directory descriptor, and whether to follow it."""
        if node.gone:
            if node.fd < 0:
                raise OSError(errno.ESTALE, "nothing is left of it")
            return fd_path(node.fd), True
        name, at = self.place(node)
        return in_dir(at, name), False

    def lower_path(self, parent: Node, name: bytes | None = None) -> bytes:
        """Path in the base of ``name`` in a directory with a lower part, or of the directory."""
        parts = [] if name is None else [name]
        node = parent
        while node.redirect is None:
            parts.append(node.name)
            node = self.parent_of(node)
        if node.redirect:
            parts.append(node.redirect)
        return b"/".join(reversed(parts))

    def lower_file(self, node: Node) -> bytes:
        """Path in the base of a file that is not copied up and has a name."""
        return self.lower_path(self.parent_of(node), node.name)

    # -- status --------------------------------------------------------------------------------

    def status(self, node: Node) -> os.stat_result:
        """The status of a node on disk."""
        if node.fd >= 0:
            return os.fstat(node.fd)
        if node.upper:
            if node.upper_fd >= 0:
                return os.fstat(node.upper_fd)
            name, at = self.upper_place(node)
            return os.stat(name, dir_fd=at, follow_symlinks=False)
        return self.lower_status(node)

    def lower_status(self, node: Node) -> os.stat_result:
        """The status of the base entry that a node shows."""
        try:
            name, at = self.lower_place(node)
            st = os.stat(name, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            raise vanished(error) from None
        self.verify(node, st)
        return st

    def open_lower(self, node: Node, flags: int = READ) -> int:
        """Open the base entry that a node shows, for reading unless ``flags`` say otherwise."""
        try:
            name, at = self.lower_place(node)
            fd = open_base(name, at) if flags == READ else os.open(name, flags, dir_fd=at)
        except OSError as error:
            raise vanished(error) from None
        try:
            self.verify(node, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check_place(self, node: Node) -> None:
        """ESTALE, or what stat says, unless the base has a node's entry where it was found."""
        if not self.stable[node.root]:
            self.lower_status(node)

    def verify(self, node: Node, st: os.stat_result) -> None:
        """ESTALE unless the base still has the entry that the node was made for."""
        key = node.key
        if key is None or st.st_ino != key[2] or st.st_dev != key[1]:
            raise OSError(errno.ESTALE, "the base entry was replaced")

    # -- names ---------------------------------------------------------------------------------

    def hidden(self, parent: Node, name: bytes) -> bool:
        return name.startswith(STAGING) and parent.root >= 0 and self.is_root(parent)

    def find(self, parent: Node, name: bytes) -> tuple[os.stat_result, bool] | None:
        """What a name in a directory leads to: its status, and whether that is in the upper."""
        if parent.gone or parent.root < 0 or self.hidden(parent, name):
            return None
        if parent.upper:
            st = upper_name(self.upper_fd(parent), name)
            if st is not None:
                return None if is_whiteout(st) else (st, True)
        st = self.base_entry(parent, name)
        return None if st is None else (st, False)

    def base_entry(self, parent: Node, name: bytes) -> os.stat_result | None:
        """What the base has there, whether or not the upper hides it."""
        at = self.merged_fd(parent)
        if at < 0:
            return None
        try:
            return os.stat(name, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def at_entry(self, parent: Node, st: os.stat_result, upper: bool) -> Node | None:
        """The node that an entry just found belongs to already."""
        if upper:
            return self.table.uppers.get(st.st_ino)
        return self.table.lowers.get((parent.root, st.st_dev, st.st_ino))

    def lent(self, node: Node) -> contextlib.AbstractContextManager[None]:
        """Full rights on a directory's upper part for a moment: the kernel has judged the
        caller's, and what we must know ourselves we need not be allowed to read."""
        name, at = self.upper_place(node)
        return self.layer.widened(max(node.root, 0), [(at, name)])

    def pin(self, node: Node) -> None:
        """Hold on to what a node is before its last name goes."""
        if node.fd >= 0:
            return
        name, at = self.place(node)
        node.fd = os.open(name, PIN, dir_fd=at)
