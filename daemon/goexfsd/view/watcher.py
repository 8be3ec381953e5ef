"""Watching a live base: what the kernel may keep for longer than a second, and who takes it back.

What comes from a base that others may change the kernel keeps for a second.  In a directory that
is watched (inotify) it keeps it for a minute: what changes there is told, and the kernel is made
to ask again, mostly within 20 ms.  A directory is watched before what it holds is looked
at, so nothing falls between.  The minute bounds what no event tells of: a write through a memory
mapping that stays open, an event that crossed an answer on its way (each is told twice).

Watched are directories of local file systems only, where all changes pass this kernel, and so
many at most, and none in which so much happens (a build's) that to hear of it would cost more
than to ask again.  A file with several names may change under one that is not watched: it keeps
its second.  The instance is the owner's, and counts among theirs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import time
from typing import TYPE_CHECKING

import trio

from goexfsd import kernel
from goexfsd.layer.writer import fd_path
from goexfsd.view import wire
from goexfsd.view.node import Node
from goexfsd.view.places import DIRECTORY
from goexfsd.view.rewind import next_epoch

if TYPE_CHECKING:
    from goexfsd.view.tree import Tree

log = logging.getLogger("goexfsd.view")

_MOST = 8192
"""Watched directories of one view; a kilobyte of the kernel's memory each."""
_REFUSED = -1
_EVENT = struct.Struct("=iIII")
"""wd, mask, cookie, length of the name that follows"""
_BUFFER = 64 << 10
_MANY = 100_000
"""Nodes that are looked through for an event."""
_AGAIN = 1.0
"""Seconds until everything is told once more."""
_CALM = 0.02
"""Seconds between two looks, so that much that happens at once is told once."""
_BUSY = 500
"""Events in a directory within a term after which it is not watched for the rest of it."""
_TERM = 60.0
"""Seconds."""
_LOCAL = frozenset(
    (
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0x01021994,  # tmpfs
        0xF2F52010,  # f2fs
        0xCA451A4E,  # bcachefs
    )
)

Notes = list[bytes]
"""Notifications for the kernel."""


class Watcher:
    """The watches of one view's base directories; a node's own is ``node.watch``."""

    def __init__(self, tree: Tree, fuse_fd: int) -> None:
        """Raises OSError where the owner may have no further instance."""
        self.tree = tree
        self._fuse_fd = fuse_fd
        self.fd = kernel.inotify_init()
        self._nodes: dict[int, Node] = {}
        """Watch -> node."""
        self._local: dict[int, bool] = {}
        """Device -> whether it is a local file system."""
        # Else many that wait for a directory could keep a copy from beginning that it waits for.
        self._room = trio.CapacityLimiter(1)
        self._counts: dict[Node, int] = {}
        """Events in this term, by directory."""
        self._busy: list[Node] = []
        self._term = time.monotonic() + _TERM

    def watch(self, node: Node) -> None:
        """Watch the lower part of a directory from now on, where that can be done."""
        node.watch = _REFUSED
        tree = self.tree
        if not node.lower or node.root < 0 or tree.stable[node.root] or node.gone:
            return
        if len(self._nodes) >= _MOST:
            return
        try:
            at = tree.merged_fd(node)
            if at < 0 or not self._is_local(at, os.fstat(at).st_dev):
                return
            number = kernel.inotify_add_watch(self.fd, fd_path(at))
        except OSError:
            return  # not for us to read, or too many: it is asked for again each second
        self._nodes[number] = node
        node.watch = number

    def leave(self, node: Node) -> None:
        """Watch a node no more."""
        number, node.watch = node.watch, 0
        if self._nodes.get(number) is node:
            del self._nodes[number]
            with contextlib.suppress(OSError):  # it is gone by itself
                kernel.inotify_rm_watch(self.fd, number)

    def _is_local(self, fd: int, device: int) -> bool:
        found = self._local.get(device)
        if found is None:
            found = self._local[device] = kernel.file_system(fd) in _LOCAL
        return found

    # -- events ------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Tell the kernel of what changes, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(self.fd)
                notes = self._look()
                if notes:
                    nursery.start_soon(self._tell, notes)
                await trio.sleep(_CALM)

    async def _tell(self, notes: Notes) -> None:
        for wait in (0.0, _AGAIN):
            if wait:
                await trio.sleep(wait)
            # It may have to wait for answers of ours.
            await trio.to_thread.run_sync(_write_all, self._fuse_fd, notes, limiter=self._room)

    def _look(self) -> Notes:
        """Read what happened; what the kernel must forget for it."""
        try:
            data = os.read(self.fd, _BUFFER)
        except BlockingIOError:
            return []
        self._begin_term()
        counts = self._counts
        names: dict[tuple[Node, bytes], None] = {}
        inside: dict[Node, None] = {}
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            if mask & kernel.IN_Q_OVERFLOW:
                return self._everything()
            node = self._nodes.get(number)
            if node is None:
                continue
            counts[node] = counts.get(node, 0) + 1
            if mask & kernel.IN_IGNORED:
                del self._nodes[number]
                if node.watch == number:
                    node.watch = 0
            if mask & kernel.IN_NAMES or not length:
                inside[node] = None
            if mask & kernel.IN_SELF_GONE and node.parent is not None:
                names[node.parent, node.name] = None
            if length:
                name = data[at - length : at].rstrip(b"\0")
                names[node, name] = None
        notes = self._notes(names, inside)
        busy = {node for node, count in counts.items() if count > _BUSY and node.watch > 0}
        return notes + self._leave_busy(busy) if busy else notes

    def _begin_term(self) -> None:
        if time.monotonic() < self._term:
            return
        self._term = time.monotonic() + _TERM
        self._counts.clear()
        for node in self._busy:
            if node.watch == _REFUSED:
                node.watch = 0  # at the next look at it
        self._busy.clear()

    def _leave_busy(self, busy: set[Node]) -> Notes:
        """Watch these no more; what the kernel was told to keep of them it must forget."""
        for node in busy:
            self.leave(node)
            node.watch = _REFUSED
            node.listed = None
            self._busy.append(node)
        notes: Notes = []
        for child in self.tree.table.by_id.values():
            if child.parent in busy and child.parent is not None:
                notes.append(wire.inval_entry(child.parent.id, child.name))
                notes.append(wire.inval_inode(child.id, attr_only=True))
        return notes

    def _notes(self, names: dict[tuple[Node, bytes], None], inside: dict[Node, None]) -> Notes:
        notes: Notes = []
        gone: set[tuple[Node, bytes]] = set()
        for node in inside:
            node.listed = None
            notes.append(wire.inval_inode(node.id, attr_only=True))
        for node, name in names:
            notes.append(wire.inval_entry(node.id, name))
            child = self._child(node, name)
            if child is None:
                gone.add((node, name))
            else:
                notes.append(wire.inval_inode(child.id, attr_only=True))
        known = self.tree.table.by_id
        if gone and len(known) <= _MANY:  # whoever has it open sees what became of it
            for child in known.values():
                if child.parent is not None and (child.parent, child.name) in gone:
                    notes.append(wire.inval_inode(child.id, attr_only=True))
        return notes

    def _child(self, node: Node, name: bytes) -> Node | None:
        """The node that the base shows under a name now."""
        try:
            st = os.stat(name, dir_fd=self.tree.lower_fd(node), follow_symlinks=False)
        except OSError:
            return None
        return self.tree.table.lowers.get((node.root, st.st_dev, st.st_ino))

    def _everything(self) -> Notes:
        """Events were lost: all that came from the base is doubtful."""
        log.warning("too much changed in the base at once; everything is looked at again")
        at_once = next_epoch(self._fuse_fd)
        notes: Notes = [wire.inc_epoch()] if at_once else []
        for node in self.tree.table.by_id.values():
            if node.kind == DIRECTORY:
                node.listed = None
            if not node.lower:
                continue
            if node.opens or not at_once:
                notes.append(wire.inval_inode(node.id, attr_only=True))
            if not at_once and node.parent is not None:
                notes.append(wire.inval_entry(node.parent.id, node.name))
        return notes


def _write_all(fuse_fd: int, notes: Notes) -> None:
    for note in notes:
        try:
            os.write(fuse_fd, note)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
