"""Changes to the merged tree: copy-up, creating, hiding, renaming, linking.

Each method is one operation, synchronous from end to end, and so atomic for all others.  It
first does what can be repeated (copying up parents and the entry itself), appends the records,
and then takes effect with one rename, link or unlink in the upper tree; nodes follow last.

``BigCopy`` comes out, with nothing changed yet, where a large file must be copied first; the
caller makes the copy beside (``aside.py``) and calls again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Any, TypeVar

from goexfsd import kernel
from goexfsd.layer import copyup
from goexfsd.layer.origins import Kind
from goexfsd.layer.writer import fd_path, in_dir, upper_name
from goexfsd.view.node import Node
from goexfsd.view.tree import DIRECTORY, Tree

BIG = 4 << 20
"""Bytes of data that may be copied while everybody waits."""

DEFAULT_ACL = b"system.posix_acl_default"
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_MAX = 255
_ATTEMPTS = 3

T = TypeVar("T")
Found = tuple[os.stat_result, bool]


class BigCopy(Exception):
    """The data of ``node`` must be copied first, up to ``length`` bytes."""

    def __init__(self, node: Node, length: int, attempt: int = 1) -> None:
        super().__init__()
        self.node = node
        self.length = length
        self.attempt = attempt


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Changer:
    """Everything that changes a layer, over the nodes of one tree."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.table = tree.table
        self.layer = tree.layer
        self._unlike: set[int] = set()
        """Devices whose files cannot be reflinked into the layer."""

    # -- rights --------------------------------------------------------------------------------

    def act(self, nodes: tuple[Node, ...], call: Callable[..., T], *args: Any) -> T:
        """Call, and if the owner lacks rights on these upper entries, again with them lent."""
        try:
            return call(*args)
        except PermissionError as error:
            if error.errno != errno.EACCES or self.layer.privileged:
                raise
        places = [self.tree.upper_place(node) for node in nodes]
        with self.layer.widened(max(nodes[0].root, 0), [(at, name) for name, at in places]):
            return call(*args)

    # -- copy-up of directories ------------------------------------------------------------------

    def make_upper(self, node: Node) -> None:
        """Give a directory, and all above it, an upper part."""
        if node.upper:
            return
        chain = []
        while not node.upper:
            if node.gone:
                raise fail(errno.ENOENT)
            if node.root < 0:
                raise fail(errno.EPERM)
            chain.append(node)
            if self.tree.is_root(node):
                break
            node = self.tree.parent_of(node)
        for one in reversed(chain):
            self._copy_directory(one)

    def _copy_directory(self, node: Node) -> None:
        tree, layer = self.tree, self.layer
        name, at = tree.lower_place(node)
        st = os.stat(name, dir_fd=at, follow_symlinks=False)
        tree.verify(node, st)
        source = in_dir(at, name)
        path = tree.lower_path(node)
        if tree.is_root(node):
            here, there = layer.root_names[node.root], layer.upper_fd
            copyup.dress(layer, node.root, source, there, here, st)
            ino = os.stat(here, dir_fd=there, follow_symlinks=False).st_ino
            layer.record(Kind.COPY, node.root, ino, path, layer.identity(node.root, st))
        else:
            tmp = copyup.build(layer, name, at, st)
            try:
                copyup.dress(layer, node.root, source, layer.work_fd, tmp, st)
                ino = os.stat(tmp, dir_fd=layer.work_fd, follow_symlinks=False).st_ino
                layer.record(Kind.COPY, node.root, ino, path, layer.identity(node.root, st))
                self._put(tree.parent_of(node), tmp, node.name)
            except BaseException:
                layer.discard(tmp)
                raise
            here, there = node.name, tree.upper_fd(tree.parent_of(node))
        copyup.settle(layer, node.root, there, here, ino, st.st_mode)
        self.table.leave_lower(node)
        self.table.place_upper(node, ino)
        node.subdirs = 0

    def _put(self, parent: Node, tmp: bytes, name: bytes) -> None:
        """Rename from ``work`` into place without touching the directory's times."""
        at = self.tree.upper_fd(parent)
        st = os.fstat(at)
        self.act(
            (parent,),
            kernel.renameat2,
            self.layer.work_fd,
            tmp,
            at,
            name,
            kernel.RENAME_NOREPLACE,
        )
        self._keep_times(at, st)

    def _keep_times(self, dir_fd: int, st: os.stat_result) -> None:
        os.utime(fd_path(dir_fd), ns=(st.st_atime_ns, st.st_mtime_ns))

    # -- copy-up of everything else --------------------------------------------------------------

    def copy_up(
        self, node: Node, length: int | None = None, at: tuple[Node, bytes] | None = None
    ) -> None:
        """Give a node an upper part, with its first ``length`` bytes (None: all).

        ``at`` is the name under which it is to come up, where it has several.
        """
        if node.upper:
            return
        if node.kind == DIRECTORY:
            self.make_upper(node)
        elif node.kind == stat.S_IFREG:
            self._copy_file(node, length, at)
        else:
            self._copy_special(node)

    def _own_name(self, node: Node, wanted: tuple[Node, bytes] | None) -> tuple[Node, bytes] | None:
        """A name under which the base still has what a lower node shows."""
        if node.gone or node.parent is None or node.key is None:
            return None
        names = [(node.parent, node.name), *(node.more or ())]
        if wanted is not None:
            names.insert(0, wanted)
        for parent, name in names:
            with contextlib.suppress(OSError):  # a directory that is closed by now
                found = self.tree.find(parent, name)
                if found is not None and not found[1] and found[0].st_ino == node.key[2]:
                    return parent, name
        return None

    def _copy_special(self, node: Node) -> None:
        tree, layer = self.tree, self.layer
        if node.gone:
            raise fail(errno.ENOENT)
        parent = tree.parent_of(node)
        name, at = tree.lower_place(node)
        st = os.stat(name, dir_fd=at, follow_symlinks=False)
        tree.verify(node, st)
        self.make_upper(parent)
        tmp = copyup.build(layer, name, at, st)
        try:
            copyup.dress(layer, node.root, in_dir(at, name), layer.work_fd, tmp, st)
            self._install(node, tmp, st, (parent, name))
        except BaseException:
            layer.discard(tmp)
            raise

    def _copy_file(self, node: Node, length: int | None, wanted: tuple[Node, bytes] | None) -> None:
        where = self._own_name(node, wanted)
        if where is not None:
            self.make_upper(where[0])
        src = self._open_source(node)
        try:
            tmp, dst, st = self._copy_contents(node, src, length)
            try:
                copyup.dress(self.layer, node.root, src, self.layer.work_fd, tmp, st)
                if where is None:
                    os.unlink(tmp, dir_fd=self.layer.work_fd)
                    self._become_nameless(node, dst)
                else:
                    self._install(node, tmp, st, where)
            except BaseException:
                os.close(dst)
                self.layer.discard(tmp)
                raise
        finally:
            if src != node.fd:
                os.close(src)
        self._adopt_fd(node, dst)

    def _open_source(self, node: Node) -> int:
        if node.readable:
            return node.fd
        if node.gone:
            return os.open(fd_path(node.fd), os.O_RDONLY | os.O_CLOEXEC)
        name, at = self.tree.lower_place(node)
        fd = copyup.open_base(name, at)
        try:
            self.tree.verify(node, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _copy_contents(
        self, node: Node, src: int, length: int | None
    ) -> tuple[bytes, int, os.stat_result]:
        """The data in ``work``; again if the base changed meanwhile (the identity that counts
        is the one from before, so a commit will see it)."""
        now = os.fstat(src)
        size = now.st_size if length is None else min(length, now.st_size)
        made = self._take_aside(node, now, size)
        if made is not None:
            return made
        for attempt in range(1, _ATTEMPTS + 1):
            st = os.fstat(src)
            size = st.st_size if length is None else min(length, st.st_size)
            tmp, dst = self._empty()
            try:
                if size and not self._reflink(src, dst, st, size):
                    if min(size, st.st_blocks * 512) > BIG:
                        raise BigCopy(node, size)
                    copyup.copy_data(src, dst, size)
                if attempt == _ATTEMPTS or same_version(st, os.fstat(src)):
                    break
            except BaseException:
                self._scrap(tmp, dst)
                raise
            self._scrap(tmp, dst)
        return tmp, dst, st

    def _empty(self) -> tuple[bytes, int]:
        """A new file in ``work``: its name and a descriptor."""
        name = self.layer.unique()
        return name, os.open(name, _CREATE, 0o600, dir_fd=self.layer.work_fd)

    def _scrap(self, name: bytes, fd: int) -> None:
        os.close(fd)
        self.layer.discard(name)

    def begin_aside(self, node: Node) -> tuple[int, bytes, int]:
        """Source (the caller's to close), name and descriptor of a copy to be made aside."""
        src = self._open_source(node)
        if src == node.fd:
            src = os.dup(src)
        try:
            return src, *self._empty()
        except BaseException:
            os.close(src)
            raise

    def drop_aside(self, node: Node) -> None:
        """Throw a copy away that was not wanted after all."""
        aside = node.aside
        node.aside = None
        if aside is not None:
            self._scrap(aside.name, aside.fd)

    def _take_aside(
        self, node: Node, st: os.stat_result, size: int
    ) -> tuple[bytes, int, os.stat_result] | None:
        """The copy made aside, if it is of this version of the base file.

        One that would never become so (a base file under constant writing) is taken at last,
        with the identity that it was begun with.
        """
        aside = node.aside
        if aside is None:
            return None
        fits = same_version(aside.st, st) or aside.attempt >= _ATTEMPTS
        if not fits or aside.length < size:
            attempt = aside.attempt + 1
            self.drop_aside(node)
            raise BigCopy(node, size, attempt)
        node.aside = None
        os.ftruncate(aside.fd, size)
        return aside.name, aside.fd, aside.st

    def _reflink(self, src: int, dst: int, st: os.stat_result, size: int) -> bool:
        if st.st_dev in self._unlike:
            return False
        if not copyup.reflink(src, dst):
            self._unlike.add(st.st_dev)
            return False
        if size < st.st_size:
            os.ftruncate(dst, size)
        return True

    def _install(
        self, node: Node, tmp: bytes, st: os.stat_result, where: tuple[Node, bytes]
    ) -> None:
        """A finished copy comes into place."""
        layer, table = self.layer, self.table
        parent, name = where
        ino = os.stat(tmp, dir_fd=layer.work_fd, follow_symlinks=False).st_ino
        path = self.tree.lower_path(parent, name)
        layer.record(Kind.COPY, node.root, ino, path, layer.identity(node.root, st))
        several = st.st_nlink > 1 and node.key is not None
        if several and node.key is not None:
            index = layer.index_name(node.key)
            layer.discard_at(layer.index_fd, index)
            os.link(
                tmp,
                index,
                src_dir_fd=layer.work_fd,
                dst_dir_fd=layer.index_fd,
                follow_symlinks=False,
            )
        self._put(parent, tmp, name)
        node.lower = False
        if several:
            node.indexed = True
        else:
            table.leave_lower(node)
        table.place_upper(node, ino)

    def _become_nameless(self, node: Node, dst: int) -> None:
        self.table.leave_lower(node)
        node.lower = False
        node.gone = True
        self.table.place_upper(node, os.fstat(dst).st_ino)

    def _adopt_fd(self, node: Node, dst: int) -> None:
        """Open handles go on with the copy."""
        if node.opens or node.gone:
            if node.fd >= 0:
                os.close(node.fd)
            node.fd = dst
            node.readable = node.writable = True
        else:
            os.close(dst)

    # -- creating --------------------------------------------------------------------------------

    def create(
        self, parent: Node, name: bytes, how: Callable[[int, bytes], T], *, directory: bool = False
    ) -> T:
        """Make a new entry with ``how(directory descriptor, name)``."""
        self.may_create(parent, name)
        if self.tree.find(parent, name) is not None:
            raise fail(errno.EEXIST)
        self.make_upper(parent)
        at = self.tree.upper_fd(parent)
        if upper_name(at, name) is None:
            made = self.act((parent,), how, at, name)
        else:
            made = self._create_over(parent, name, how, directory)
        if directory:
            count(parent, 1)
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
        found = self.tree.find(parent, name)
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

    @staticmethod
    def _unlink(dir_fd: int, name: bytes) -> None:
        os.unlink(name, dir_fd=dir_fd)

    def _take(self, parent: Node, node: Node, name: bytes, covered: bool) -> None:
        at = self.tree.upper_fd(parent)
        nodes = (parent, node) if node.kind == DIRECTORY else (parent,)

        def take() -> bytes:
            return self.layer.take_away(at, name, leave_whiteout=covered)

        self.layer.discard(self.act(nodes, take))

    def must_be_empty(self, node: Node) -> None:
        if self.tree.names(node):
            raise fail(errno.ENOTEMPTY)

    def _hide(self, parent: Node, name: bytes, found: Found, node: Node) -> bool:
        """Record that what the base has at a place goes; True if a whiteout must stand there.

        A base entry that came after the session made one of its own there was never seen: it
        is not hidden, and shows again.
        """
        base = self.tree.base_entry(parent, name)
        if base is None:
            return False
        path = self.tree.lower_path(parent, name)
        if found[1] and not self.tree.ledger.has_seen(node.root, path):
            return False
        identity = self.layer.identity(node.root, base)
        if node.indexed and not found[1]:
            self.layer.record(Kind.ALIAS, node.root, node.upper_ino, path, identity)
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
            if not node.upper or not self._still_linked(node):
                self.table.unplace(node)
            self.table.collect(node)

    def _still_linked(self, node: Node) -> bool:
        return node.kind != DIRECTORY and node.fd >= 0 and os.fstat(node.fd).st_nlink > 0

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
        if node.gone:
            raise fail(errno.ENOENT)
        if self.tree.find(parent, name) is not None:
            raise fail(errno.EEXIST)
        self.make_upper(parent)
        self.copy_up(node)
        self._link_upper(node, parent, name)
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
        both = (parent, to)
        if there is not None and stat.S_ISDIR(there.st_mode):
            nodes = both if other is None else (*both, other)
            gone = self.act(nodes, lambda: layer.take_away(target, new, leave_whiteout=True))
            layer.discard(gone)
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


def same_version(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a base file was left alone between two looks."""
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
