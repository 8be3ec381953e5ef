"""One FUSE request: a synchronous method, made into a handler that can only fail with an errno.

Most requests are answered by the lane (``lane.py``), which calls the methods themselves; what it
hands on comes here by way of pyfuse3.  Any exception but FUSEError would end the whole mount
there, so this is one of the edges with a broad except: OSError becomes its errno, anything else
EIO and a log line.  A method that raises ``BigCopy`` has changed nothing yet; it is run again
once the copy has been made.

Methods answer with the kernel's structs; an ``answer`` makes pyfuse3's form of that.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

import pyfuse3
import trio

from goexfsd.layer import copyup
from goexfsd.layer.writer import Layer
from goexfsd.view import wire
from goexfsd.view.attributes import Attributes
from goexfsd.view.changer import Changer
from goexfsd.view.copier import BigCopy
from goexfsd.view.node import Aside, Node
from goexfsd.view.rewind import Asked, switch
from goexfsd.view.tree import Tree

log = logging.getLogger("goexfsd.view")

_NS = 1_000_000_000


class Context(Protocol):
    """Who asks: pyfuse3's RequestContext, or the lane's."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def umask(self) -> int: ...


class State(pyfuse3.Operations):
    """What the handlers share; set up after the mount, by ``begin``."""

    supports_dot_lookup = True
    enable_writeback_cache = False
    enable_acl = True

    changer_type: type[Changer] = Changer
    attributes_type: type[Attributes] = Attributes

    tree: Tree
    changer: Changer
    attributes: Attributes
    squash: tuple[int, int] | None
    fuse_fd = -1
    """/dev/fuse."""
    one_call = False
    """Whether one notification makes the kernel forget all names (see ``rewind``)."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
        self.plain = 0
        """Those of them that were answered in C."""
        self._locks: dict[int, trio.Lock] = {}

    def begin(self, tree: Tree, squash: tuple[int, int] | None) -> None:
        """Serve this tree from now on."""
        self.tree = tree
        self.squash = squash
        self.changer = self.changer_type(tree)
        self.attributes = self.attributes_type(tree, squash, absence_lasts=self.one_call)

    def rebase(
        self,
        layer: Layer,
        lower_fds: list[int] | None = None,
        stable: list[bool] | None = None,
    ) -> Asked:
        """Go over to another layer, and to other roots beneath it if given; returns what the
        kernel must be made to forget."""
        for node in self.tree.table.by_id.values():
            self.changer.drop_aside(node)
        old = self.tree.layer
        told = switch(self.tree, layer, lower_fds, stable)
        self.begin(self.tree, self.squash)
        old.close()
        self.tree.tidy()
        return told

    def forget_attributes(self, inode: int) -> None:
        """Make the kernel ask for an inode's attributes again."""
        with contextlib.suppress(OSError):
            os.write(self.fuse_fd, wire.inval_inode(inode, attr_only=True))

    def known(self, inode: int) -> Node:
        """The node of a number that the kernel got from us."""
        node = self.tree.table.by_id.get(inode)
        if node is None:
            raise OSError(errno.ESTALE, "no such node")
        return node

    async def copy_aside(self, need: BigCopy) -> None:
        """Make the data copy that an operation waits for, in a thread; once per node."""
        node = need.node
        lock = self._locks.setdefault(node.id, trio.Lock())
        node.refs += 1  # it stays
        try:
            async with lock:
                aside = node.aside
                ready = aside is not None and aside.length >= need.length
                if not node.upper and not ready:
                    await self._copy(node, need.length, need.attempt)
        finally:
            node.refs -= 1
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(node.id, None)
            self.tree.table.collect(node)

    async def _copy(self, node: Node, length: int, attempt: int) -> None:
        layer = self.tree.layer
        src, name, dst = self.changer.begin_aside(node)
        try:
            st = os.fstat(src)
            await trio.to_thread.run_sync(copyup.copy_data, src, dst, length)
        except BaseException:
            os.close(dst)
            if self.tree.layer is layer:
                layer.discard(name)
            raise
        finally:
            os.close(src)
        if self.tree.layer is not layer:  # the view was rewound meanwhile
            os.close(dst)
            raise OSError(errno.ESTALE, "the layer was replaced")
        self.changer.drop_aside(node)
        node.aside = Aside(name, dst, length, st, attempt)


def as_entry(packed: bytes) -> pyfuse3.EntryAttributes:
    """A ``fuse_entry_out`` as pyfuse3 wants it."""
    number, _, entry_valid, attr_valid, _, _, _, *attr = wire.ENTRY_OUT.unpack(packed)
    return _attributes(number, entry_valid, attr_valid, attr)


def as_attributes(packed: bytes) -> pyfuse3.EntryAttributes:
    """A ``fuse_attr_out`` as pyfuse3 wants it."""
    valid, _, _, number, *attr = wire.ATTR_OUT.unpack(packed)
    return _attributes(number, valid, valid, attr)


def _attributes(
    number: int, entry_valid: int, attr_valid: int, attr: list[int]
) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = number
    entry.entry_timeout, entry.attr_timeout = float(entry_valid), float(attr_valid)
    entry.st_size, entry.st_blocks = attr[:2]
    seconds = [at - (1 << 64) if at >> 63 else at for at in attr[2:5]]
    entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = (
        at * _NS + ns for at, ns in zip(seconds, attr[5:8], strict=True)
    )
    entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid, entry.st_rdev = attr[8:13]
    return entry


def handler(method: Callable[..., Any], answer: Callable[[Any], Any] | None = None) -> Any:
    """The request handler around a synchronous method."""

    @functools.wraps(method)
    async def handle(self: State, *args: Any) -> Any:
        self.requests += 1
        try:
            while True:
                try:
                    done = method(self, *args)
                except BigCopy as need:
                    await self.copy_aside(need)
                else:
                    return done if answer is None else answer(done)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except pyfuse3.FUSEError:
            raise
        except Exception:
            log.exception("%s failed", method.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None
        finally:
            tree = self.tree
            if tree.table.dropped or len(tree.pool) > tree.pool_limit:
                tree.tidy()

    return handle


def entry_handler(method: Callable[..., bytes]) -> Any:
    """The same for one that answers with a ``fuse_entry_out``."""
    return handler(method, as_entry)


def attr_handler(method: Callable[..., bytes]) -> Any:
    """The same for one that answers with a ``fuse_attr_out``."""
    return handler(method, as_attributes)


def in_thread(method: Callable[..., Callable[[], Any]]) -> Any:
    """The handler around a method that returns slow work to be done in a thread."""

    @functools.wraps(method)
    async def handle(self: State, *args: Any) -> None:
        self.requests += 1
        try:
            work = method(self, *args)
            await trio.to_thread.run_sync(work)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except Exception:
            log.exception("%s failed", method.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return handle
