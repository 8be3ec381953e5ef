"""One FUSE request: a synchronous method, made into a handler that can only fail with an errno.

Any exception but FUSEError would end the whole mount (pyfuse3), so this is one of the two edges
with a broad except: OSError becomes its errno, anything else EIO and a log line.  A method that
raises ``BigCopy`` has changed nothing yet; it is run again once the copy has been made.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import pyfuse3
import trio

from goexfsd.layer import copyup
from goexfsd.layer.writer import Layer
from goexfsd.view.attributes import Attributes
from goexfsd.view.changer import Changer
from goexfsd.view.copier import BigCopy
from goexfsd.view.node import Aside, Node
from goexfsd.view.reading import slow
from goexfsd.view.rewind import Asked, switch
from goexfsd.view.tree import Tree

log = logging.getLogger("goexfsd.view")


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
    one_call = False
    """Whether one notification makes the kernel forget all names (see ``rewind``)."""

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0
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


def handler(method: Callable[..., Any]) -> Any:
    """The request handler around a synchronous method."""

    @functools.wraps(method)
    async def handle(self: State, *args: Any) -> Any:
        self.requests += 1
        try:
            while True:
                try:
                    return method(self, *args)
                except BigCopy as need:
                    with slow:
                        await self.copy_aside(need)
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


def in_thread(method: Callable[..., Callable[[], Any]]) -> Any:
    """The handler around a method that returns slow work to be done in a thread."""

    @functools.wraps(method)
    async def handle(self: State, *args: Any) -> None:
        self.requests += 1
        try:
            work = method(self, *args)
            with slow:
                await trio.to_thread.run_sync(work)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except Exception:
            log.exception("%s failed", method.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return handle
