"""Changes to the merged tree: creating, hiding, linking, renaming.

Each method is one operation, synchronous from end to end, and so atomic for all others.  It
first does what can be repeated (copying up parents and the entry itself), appends the records,
and then takes effect with one rename, link or unlink in the upper tree; nodes follow last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import TypeVar

from goexfsd import kernel
from goexfsd.layer import copyup
from goexfsd.layer.originals import LIMIT
from goexfsd.layer.origins import Kind
from goexfsd.layer.writer import fd_path, in_dir, upper_name
from goexfsd.view.copier import Copier, fail
from goexfsd.view.node import Node, created_number
from goexfsd.view.places import DIRECTORY

DEFAULT_ACL = b"system.posix_acl_default"
_NAME_MAX = 255

T = TypeVar("T")
Found = tuple[os.stat_result, bool]


class Changer(Copier):
    """Everything that changes names, over the nodes of one tree."""

    # -- creating --------------------------------------------------------------------------------

    def create(
        self, parent: Node, name: bytes, how: Callable[[int, bytes], T], *, directory: bool = False
    ) -> T:
        """Make a new entry with ``how(directory descriptor, name)``."""
        self.may_create(parent, name)
        if self.tree.find(parent, name) is not None:
            raise fail(errno.EEXIST)
        quota = self.layer.quota
        if quota is not None:
            quota.want_inode()
        self.make_upper(parent)
        self.layer.pass_over_the_dead()
        at = self.tree.upper_fd(parent)
        if upper_name(at, name) is None:
            made = self.act((parent,), how, at, name)
        else:
            made = self._create_over(parent, name, how, directory)
        if directory:
            count(parent, 1)
        if quota is not None:
            quota.spend_on(os.stat(name, dir_fd=at, follow_symlinks=False))
        return made

    def may_create(self, parent: Node, name: bytes) -> None:
        if len(name) > _NAME_MAX:
            raise fail(errno.ENAMETOOLONG)
        if parent.gone:
            raise fail(errno.ENOENT)
        if parent.root < 0 or self.tree.hidden(parent, name):
            raise fail(errno.EPERM)

    def _create_over(
        self, parent: Node, name: bytes, how: Callable[[int, bytes], T], directory: bool
    ) -> T:
        """Make an entry in place of a whiteout, atomically: built beside, then renamed over."""
        if not directory:
            self._keep_base(parent, name)
        at = self.tree.upper_fd(parent)
        stage, stage_fd = self._stage(parent)
        try:
            made = how(stage_fd, name)
            flags = kernel.RENAME_EXCHANGE if directory else 0
            self.act((parent,), kernel.renameat2, stage_fd, name, at, name, flags)
            return made
        finally:
            os.close(stage_fd)
            self.layer.discard(stage)

    def _keep_base(self, parent: Node, name: bytes) -> None:
        """The base file at a place is about to be replaced by another: a merge may want it."""
        base = self.tree.base_entry(parent, name)
        if base is None or not stat.S_ISREG(base.st_mode) or not 0 < base.st_size <= LIMIT:
            return
        with contextlib.suppress(OSError):
            src = copyup.open_base(name, self.tree.merged_fd(parent))
            try:
                self.layer.keep_original(parent.root, self.layer.identity(parent.root, base), src)
            finally:
                os.close(src)

    def _stage(self, parent: Node) -> tuple[bytes, int]:
        """A directory in ``work`` from which new entries inherit as they would from parent."""
        layer = self.layer
        stage = layer.unique()
        os.mkdir(stage, 0o700, dir_fd=layer.work_fd)
        st = os.fstat(self.tree.upper_fd(parent))
        if st.st_mode & stat.S_ISGID:
            os.chown(stage, -1, st.st_gid, dir_fd=layer.work_fd)
            os.chmod(stage, 0o2700, dir_fd=layer.work_fd)
        acl = self.default_acl(parent)
        if acl is not None:
            os.setxattr(in_dir(layer.work_fd, stage), DEFAULT_ACL, acl, follow_symlinks=False)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return stage, os.open(stage, flags, dir_fd=layer.work_fd)

    def default_acl(self, node: Node) -> bytes | None:
        """The default ACL of a directory that has an upper part."""
        if node.acl is False:
            return None
        try:
            acl = os.getxattr(fd_path(self.tree.upper_fd(node)), DEFAULT_ACL)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                raise
            node.acl = False
            return None
        node.acl = True
        return acl

    # -- removing --------------------------------------------------------------------------------

    def remove(self, parent: Node, name: bytes, *, directory: bool) -> None:
        """unlink and rmdir."""
        found = self._find_known(parent, name) or self.tree.find(parent, name)
        if found is None:
            raise fail(errno.ENOENT)
        if parent.root < 0:
            raise fail(errno.EPERM)
        node = self.tree.node(parent, name, *found)
        if directory:
            if node.kind != DIRECTORY:
                raise fail(errno.ENOTDIR)
            self.must_be_empty(node)
        elif node.kind == DIRECTORY:
            raise fail(errno.EISDIR)
        self.make_upper(parent)
        self._hold(node)
        at = self.tree.upper_fd(parent)
        covered = self._hide(parent, name, found, node)
        if not found[1]:
            self.act((parent,), self.layer.whiteout, at, name)
        elif covered or directory:
            self._take(parent, node, name, covered)
        else:
            self.act((parent,), self._unlink, at, name)
        if directory:
            count(parent, -1)
        self.lost_name(node, parent, name)

    def _find_known(self, parent: Node, name: bytes) -> Found | None:
        """``find``, where the base has an entry that is known by this very name: then the upper
        has nothing there, and need not be asked."""
        tree = self.tree
        if parent.gone or parent.root < 0 or tree.hidden(parent, name):
            return None
        st = tree.base_entry(parent, name)
        if st is None:
            return None
        node = self.table.lowers.get((parent.root, st.st_dev, st.st_ino))
        if node is None or node.upper or node.gone:
            return None
        return (st, False) if node.parent is parent and node.name == name else None

    @staticmethod
    def _unlink(dir_fd: int, name: bytes) -> None:
        os.unlink(name, dir_fd=dir_fd)

    def _take(self, parent: Node, node: Node, name: bytes, covered: bool) -> None:
        at = self.tree.upper_fd(parent)
        nodes = (parent, node) if node.kind == DIRECTORY else (parent,)

        def take() -> bytes:
            return self.layer.take_away(at, name, leave_whiteout=covered)

        self._scrape(self.act(nodes, take), node)

    def _scrape(self, taken: bytes, node: Node | None) -> None:
        """Remove what was taken away; a directory that somebody has open at once, for emptying
        it would change the times that they may give it."""
        if node is not None and (node.kind != DIRECTORY or node.opens):
            self.layer.discard(taken)
        else:
            self.layer.discard_later(taken)

    def must_be_empty(self, node: Node) -> None:
        if self.tree.names(node):
            raise fail(errno.ENOTEMPTY)

    def _hide(self, parent: Node, name: bytes, found: Found, node: Node) -> bool:
        """Record that what the base has at a place goes; True if a whiteout must stand there.

        A base entry that came after the session made one of its own there was never seen: it
        is not hidden, and shows again.
        """
        base = self.tree.base_entry(parent, name) if found[1] else found[0]
        if base is None:
            return False
        path = self.tree.lower_path(parent, name)
        if found[1] and not self.tree.ledger.has_seen(node.root, path):
            return False
        identity = self.layer.identity(node.root, base)
        if node.indexed and not found[1]:
            self.layer.record(Kind.ALIAS, node.root, node.upper_ino, path, identity)
        if not self.tree.ledger.has_hidden(node.root, path, identity):
            self.layer.record(Kind.HIDE, node.root, node.upper_ino, path, identity)
        return True

    def _hold(self, node: Node) -> None:
        """The node is about to lose a name; keep what it is if that may be the last."""
        if node.lookups or node.opens:
            self.tree.pin(node)

    def lost_name(self, node: Node, parent: Node, name: bytes) -> None:
        """A node's name is gone from the tree."""
        left = self.table.unbind(node, parent, name)
        if node.indexed and node.key is not None:
            self._tend_index(node)
        if left and not node.opens and not node.gone:
            self.tree.close_file(node)
        if not left:
            node.gone = True
            self.tree.drop_fds(node)
            if not self._still_linked(node):
                self.table.unplace(node)
            self.table.collect(node)

    def _still_linked(self, node: Node) -> bool:
        """Whether a file that lost its last known name has others, which the kernel has not
        asked for yet; a base file keeps the name that is hidden now."""
        if node.kind == DIRECTORY or node.fd < 0:
            return False
        return os.fstat(node.fd).st_nlink > (0 if node.upper else 1)

    def _tend_index(self, node: Node) -> None:
        """Drop a copy's index entry when no visible name leads to it any more."""
        key = node.key
        assert key is not None
        index = self.layer.index_name(key)
        st = upper_name(self.layer.index_fd, index)
        if st is None or st.st_nlink > 1 or self.tree.ledger.visible_base_names(key) > 0:
            return
        os.unlink(index, dir_fd=self.layer.index_fd)
        node.indexed = False

    # -- linking ---------------------------------------------------------------------------------

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        """Give a file one more name."""
        self.may_create(parent, name)
        if node.root != parent.root:
            raise fail(errno.EXDEV)
        if node.gone and not node.nameless:
            raise fail(errno.ENOENT)
        if self.tree.find(parent, name) is not None:
            raise fail(errno.EEXIST)
        self.make_upper(parent)
        if node.nameless:
            self._name(node, parent, name)
            return
        self.copy_up(node)
        self._link_upper(node, parent, name)
        self.table.bind(node, parent, name)

    def nameless(self, root: int, fd: int, st: os.stat_result) -> Node:
        """The node of a file that was made without a name, open."""
        node = Node(self.table.number(created_number(st.st_ino)), stat.S_IFREG, root, None, b"")
        node.gone = node.nameless = node.readable = node.writable = True
        node.fd, node.opens = fd, 1
        self.table.add(node)
        self.table.place_upper(node, st.st_ino)
        return node

    def _name(self, node: Node, parent: Node, name: bytes) -> None:
        """Give a file that was made without a name its first."""
        at = self.tree.upper_fd(parent)
        if upper_name(at, name) is None:
            self.act((parent,), kernel.linkat_fd, node.fd, at, name)
        else:
            tmp = self.layer.unique()
            kernel.linkat_fd(node.fd, self.layer.work_fd, tmp)
            self.act((parent,), kernel.renameat2, self.layer.work_fd, tmp, at, name, 0)
        node.gone = node.nameless = False
        self.table.bind(node, parent, name)

    def _link_upper(self, node: Node, parent: Node, name: bytes) -> None:
        source, source_fd = self.tree.upper_place(node)
        at = self.tree.upper_fd(parent)
        if upper_name(at, name) is None:
            self.act((parent,), _link, source_fd, source, at, name)
            return
        tmp = self.layer.unique()
        _link(source_fd, source, self.layer.work_fd, tmp)
        self.act((parent,), kernel.renameat2, self.layer.work_fd, tmp, at, name, 0)

    # -- renaming --------------------------------------------------------------------------------

    def rename(self, parent: Node, name: bytes, to: Node, new: bytes, flags: int) -> None:
        """rename(2) with RENAME_NOREPLACE or RENAME_EXCHANGE."""
        tree = self.tree
        if flags & ~(kernel.RENAME_NOREPLACE | kernel.RENAME_EXCHANGE):
            raise fail(errno.EINVAL)
        self.may_create(to, new)
        if parent.root != to.root:
            raise fail(errno.EXDEV)
        found = tree.find(parent, name)
        if found is None:
            raise fail(errno.ENOENT)
        victim = tree.find(to, new)
        if flags & kernel.RENAME_NOREPLACE and victim is not None:
            raise fail(errno.EEXIST)
        node = tree.node(parent, name, *found)
        other = None if victim is None else tree.node(to, new, *victim)
        if other is node:
            return
        if flags & kernel.RENAME_EXCHANGE:
            if other is None or victim is None:
                raise fail(errno.ENOENT)
            self._exchange(node, parent, name, found, other, to, new, victim)
            return
        if other is not None:
            self._may_replace(node, other)
        self.make_upper(to)
        self._come_up(node, parent, name, found)
        found = (found[0], True)
        if other is not None and victim is not None:
            self._hold(other)
            if not victim[1]:
                self._keep_base(to, new)
            self._hide(to, new, victim, other)
        covered = self._leave(node, parent, name, found)
        self._move(node, parent, name, to, new, other, covered)
        if other is not None:
            if other.kind == DIRECTORY:
                count(to, -1)
            self.lost_name(other, to, new)
        self._follow(node, parent, name, to, new)

    def _may_replace(self, node: Node, other: Node) -> None:
        if other.kind == DIRECTORY:
            if node.kind != DIRECTORY:
                raise fail(errno.EISDIR)
            self.must_be_empty(other)
        elif node.kind == DIRECTORY:
            raise fail(errno.ENOTDIR)

    def _come_up(self, node: Node, parent: Node, name: bytes, found: Found) -> None:
        """Give the entry itself (not only its node) an upper part at its place."""
        self.make_upper(parent)
        if found[1]:
            return
        self.copy_up(node, at=(parent, name))
        at = self.tree.upper_fd(parent)
        if upper_name(at, name) is None:  # another name of it is what came up
            base = self.tree.base_entry(parent, name)
            if base is None:
                raise fail(errno.ESTALE)
            path = self.tree.lower_path(parent, name)
            identity = self.layer.identity(node.root, base)
            self.layer.record(Kind.ALIAS, node.root, node.upper_ino, path, identity)
            st = os.fstat(at)
            self._link_upper(node, parent, name)
            self._keep_times(at, st)

    def _leave(self, node: Node, parent: Node, name: bytes, found: Found) -> bool:
        """Before an entry moves away: records, and the redirect of a directory that shows the
        base; True if a whiteout must stay."""
        if node.kind == DIRECTORY and node.lower and node.redirect is None:
            lower = self.tree.lower_path(node)
            at = self.tree.upper_fd(parent)
            self.act((node,), self.layer.set_redirect, at, name, lower)
            node.redirect = lower
        return self._hide(parent, name, found, node)

    def _move(
        self,
        node: Node,
        parent: Node,
        name: bytes,
        to: Node,
        new: bytes,
        other: Node | None,
        covered: bool,
    ) -> None:
        """The one step that takes effect."""
        layer = self.layer
        source, target = self.tree.upper_fd(parent), self.tree.upper_fd(to)
        there = upper_name(target, new)
        if there is not None and other is None:
            self._keep_base(to, new)
        both = (parent, to)
        if there is not None and stat.S_ISDIR(there.st_mode):
            nodes = both if other is None else (*both, other)
            gone = self.act(nodes, lambda: layer.take_away(target, new, leave_whiteout=True))
            self._scrape(gone, other)
            there = upper_name(target, new)
        if there is not None and node.kind == DIRECTORY:
            self.act(both, kernel.renameat2, source, name, target, new, kernel.RENAME_EXCHANGE)
            if not covered:
                self.act(both, self._unlink, source, name)
            return
        flags = kernel.RENAME_WHITEOUT if covered else 0
        self.act(both, kernel.renameat2, source, name, target, new, flags)

    def _follow(self, node: Node, parent: Node, name: bytes, to: Node, new: bytes) -> None:
        if node.kind == DIRECTORY:
            self.table.move(node, to, new)
            count(parent, -1)
            count(to, 1)
            return
        self.table.bind(node, to, new)
        self.table.unbind(node, parent, name)

    def _exchange(
        self,
        node: Node,
        parent: Node,
        name: bytes,
        found: Found,
        other: Node,
        to: Node,
        new: bytes,
        victim: Found,
    ) -> None:
        self._come_up(node, parent, name, found)
        self._come_up(other, to, new, victim)
        self._leave(node, parent, name, (found[0], True))
        self._leave(other, to, new, (victim[0], True))
        source, target = self.tree.upper_fd(parent), self.tree.upper_fd(to)
        self.act(
            (parent, to),
            kernel.renameat2,
            source,
            name,
            target,
            new,
            kernel.RENAME_EXCHANGE,
        )
        self._follow(node, parent, name, to, new)
        self._follow(other, to, new, parent, name)


def _link(source_fd: int, source: bytes, dir_fd: int, name: bytes) -> None:
    os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False)


def count(node: Node, more: int) -> None:
    """A directory has more (or fewer) subdirectories than before."""
    if node.subdirs is not None:
        node.subdirs += more
