"""Rewinding: the live view goes over to another layer without unmounting.

``switch`` is one synchronous stretch: every node that the kernel knows is looked up again, by
its name, in the new layer.  What is the same entry there (the same inode number) goes on as it
is now; everything else is gone, and a later lookup finds a new node.  An open file whose bytes
lie in the old layer keeps them: it has lost its name, like a deleted one.

``forget_kernel`` then makes the kernel ask again.  A notification may wait for the answer to a
request, so it must not come from the task that answers: it is for a thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time

from goexfsd.layer.copyup import open_base
from goexfsd.layer.writer import Layer
from goexfsd.view import wire
from goexfsd.view.attributes import LIVE
from goexfsd.view.copier import same_version
from goexfsd.view.node import TOP, Node
from goexfsd.view.places import DIRECTORY
from goexfsd.view.tree import Tree

_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

Asked = list[tuple[int, int, bytes]]
"""What to make the kernel forget: inode, parent's inode, name."""


def switch(
    tree: Tree, layer: Layer, lower_fds: list[int] | None = None, stable: list[bool] | None = None
) -> Asked:
    """Let the tree's nodes show ``layer``; returns all names that the kernel may know.

    ``lower_fds`` are roots to show beneath it from now on in place of the former, which are
    closed; ``stable`` says which of them cannot change.
    """
    table = tree.table
    known = list(table.by_id.values())
    told = [
        (node.id, parent.id, name)
        for node in known
        for parent, name in ((node.parent, node.name), *(node.more or ()))
        if parent is not None
    ]
    was_open = {node: node.upper for node in known if node.opens and node.kind != DIRECTORY}
    for node in known:
        tree.drop_fds(node)
    table.uppers.clear()
    table.lowers.clear()
    layer.step, layer.changes = tree.layer.step, tree.layer.changes + 1
    tree.layer, tree.ledger = layer, layer.ledger
    if lower_fds is not None:
        _exchange_base(tree, lower_fds, stable or [False] * len(lower_fds))
    for root in tree.roots:
        root.acl = root.subdirs = None
        tree.attach_root(root)
        st = os.fstat(tree.root_fds[root.root])
        if not root.upper:
            table.place_lower(root, (root.root, st.st_dev, st.st_ino))
    done = {tree.top, *tree.roots}
    for node in known:
        _settle_chain(tree, node, done, was_open)
    return told


def _exchange_base(tree: Tree, lower_fds: list[int], stable: list[bool]) -> None:
    for fd in tree.root_fds:
        os.close(fd)
    tree.root_fds[:] = lower_fds
    tree.root_devs = tree.ledger.root_devs
    tree.stable = stable


def _settle_chain(tree: Tree, node: Node, done: set[Node], was_open: dict[Node, bool]) -> None:
    """Settle a node after all directories above it."""
    chain = []
    one: Node | None = node
    while one is not None and one not in done:
        chain.append(one)
        one = one.parent
    for each in reversed(chain):
        done.add(each)
        if not each.gone:
            _settle(tree, each, was_open)


def _settle(tree: Tree, node: Node, was_open: dict[Node, bool]) -> None:
    names = [(node.parent, node.name), *(node.more or ())]
    for parent, name in names:
        if parent is None or parent.gone:
            continue
        with contextlib.suppress(OSError):
            found = tree.find(parent, name)
            if found is not None and _take_up(tree, node, parent, name, found, was_open):
                return
    _lose(tree, node)


def _take_up(
    tree: Tree,
    node: Node,
    parent: Node,
    name: bytes,
    found: tuple[os.stat_result, bool],
    was_open: dict[Node, bool],
) -> bool:
    """Let a node be what was found, if it is the same entry."""
    st, upper = found
    if stat.S_IFMT(st.st_mode) != node.kind:
        return False
    kept = was_open.get(node)
    if kept is not None and (kept or upper):
        return False  # its handles keep the bytes that they had
    if tree.preferred(parent, st, upper) != node.id or tree.at_entry(parent, st, upper):
        return False
    if kept is False and not _reopens(tree, node, parent, name, st):
        return False
    for old, _ in node.more or ():
        old.refs -= 1
    node.more = None
    if node.parent is not parent or node.name != name:
        tree.table.move(node, parent, name)
    if kept is None:
        tree.close_file(node)
    node.upper = node.lower = node.indexed = node.plain = False
    node.key = node.redirect = node.acl = node.subdirs = None
    tree.describe(node, parent, name, st, upper)
    return True


def _reopens(tree: Tree, node: Node, parent: Node, name: bytes, st: os.stat_result) -> bool:
    """Whether an open base file is the same in the state of the base that is shown now; then it
    is open there."""
    was = os.fstat(node.fd)
    if was.st_dev == st.st_dev:
        return True  # the base was not exchanged
    if not same_version(was, st):
        return False
    fd = open_base(name, tree.lower_fd(parent))
    os.close(node.fd)
    node.fd = fd
    return True


def _lose(tree: Tree, node: Node) -> None:
    """The new layer does not have it."""
    parents = [node.parent, *(parent for parent, _ in node.more or ())]
    node.parent, node.more = None, None
    node.gone = True
    for parent in parents:
        if parent is not None:
            parent.refs -= 1
            tree.table.collect(parent)
    tree.table.collect(node)


def forget_kernel(fuse_fd: int, told: Asked) -> None:
    """Make the kernel ask again for every name and every inode.

    One notification drops all names (Linux 6.16); before that each known name is dropped, and
    names that were absent are waited out.
    """
    names_gone = next_epoch(fuse_fd)
    for inode, parent, name in told:
        with contextlib.suppress(OSError):
            if not names_gone:
                os.write(fuse_fd, wire.inval_entry(parent, name))
        with contextlib.suppress(OSError):
            os.write(fuse_fd, wire.inval_inode(inode))
    with contextlib.suppress(OSError):
        os.write(fuse_fd, wire.inval_inode(TOP))
    if not names_gone:
        time.sleep(LIVE)


def next_epoch(fuse_fd: int) -> bool:
    """Make the kernel look every name up again; False if it does not know how."""
    try:
        os.write(fuse_fd, wire.inc_epoch())
    except OSError as error:
        if error.errno in _UNKNOWN:
            return False
        raise
    return True
