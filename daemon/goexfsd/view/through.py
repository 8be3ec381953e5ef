"""Passthrough: open files that the kernel reads and writes in the layer, without asking the view.

It is for what pays: a file of some size in the layer, opened anew.  A new file is served by the
view while it is open, a base file too (it may still have to be copied up).  The kernel keeps an
inode in one mode at a time: all its handles go by the view, or all to one backing file; so the
first to open a file decides until the last has closed it.

What the view does not see it takes for granted: a file that is open so for writing counts as
changed at each look, its attributes may not be kept by the kernel, and its pages are dropped
when it is next opened the ordinary way.

Not where the view must see the bytes or has to judge them: with limits on the layer, with rules,
with set-id bits, and in a session of root (whose worker takes those bits away).
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import struct

from goexfsd.view.node import Node
from goexfsd.view.tree import Tree

log = logging.getLogger("goexfsd.view")

WORTH = 256 << 10
"""Bytes from which on a file is worth the question, which costs as much as some ten requests."""
_PATIENCE = 2.0
"""Seconds that the daemon may take to answer."""
NUMBER = struct.Struct("=i")
"""A backing file's number, as it is told."""
_NEVER = (errno.EPERM, errno.ENOTTY)
"""What a kernel says that does not know of it."""
_SPECIAL = stat.S_ISUID | stat.S_ISGID


class Through:
    """The nodes of one view that are open so; their backing files' numbers are ``node.through``."""

    def __init__(self, sock: socket.socket, fuse_fd: int) -> None:
        """``sock`` leads to ``goexfsd.backing``.  Raises OSError."""
        self._sock: socket.socket | None = sock
        self.writers: set[Node] = set()
        """Open for writing."""
        sock.settimeout(_PATIENCE)
        self._ask(b"f", fuse_fd)

    def opened(self, node: Node, tree: Tree, flags: int) -> int:
        """The backing file's number for one more handle of a node; 0: it goes by the view."""
        if not node.through:
            if node.opens > 1 or not _fits(node, tree):
                return 0
            try:
                number = self._ask(b"o", node.fd)
            except OSError as error:
                log.warning("no passthrough any more: %s", error)
                self._sock = None
                return 0
            if number <= 0:
                if -number in _NEVER:
                    self._sock = None
                return 0
            node.through, node.passed = number, True
        if flags & os.O_ACCMODE != os.O_RDONLY:
            tree.layer.changes += 1
            self.writers.add(node)
        return node.through

    def closed(self, node: Node, tree: Tree) -> None:
        """The last handle of a node is closed."""
        if self._sock is not None:
            try:
                self._sock.send(b"c" + NUMBER.pack(node.through))
            except OSError as error:
                log.warning("a backing file stays: %s", error)
        node.through = 0
        if node in self.writers:
            self.writers.discard(node)
            tree.layer.changes += 1

    def _ask(self, message: bytes, fd: int) -> int:
        if self._sock is None:
            return 0
        socket.send_fds(self._sock, [message], [fd])
        answer = self._sock.recv(NUMBER.size)
        if len(answer) != NUMBER.size:
            raise OSError("the daemon has hung up")
        found: int = NUMBER.unpack(answer)[0]
        return found


def _fits(node: Node, tree: Tree) -> bool:
    if not node.upper or not node.readable or not node.writable or type(tree) is not Tree:
        return False
    if tree.layer.privileged or tree.layer.quota is not None:
        return False
    st = os.fstat(node.fd)
    return st.st_size >= WORTH and not st.st_mode & _SPECIAL
