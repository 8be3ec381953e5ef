"""Copy-up in the tree: giving nodes an upper part, in place and with its records.

A copy is built in the layer's work directory, its COPY record appended, and then it is renamed
into place; the directory's own times stay.  Open handles go on with the copy.  A node that has
no name any more becomes a nameless entry of the layer, or goes to the index if the base has
further names of it.

``BigCopy`` comes out, with nothing changed yet, where a large file must be copied first; the
caller makes the copy beside (``handling.py``) and calls again.
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
from goexfsd.layer.origins import Identity, Kind
from goexfsd.layer.writer import fd_path, in_dir
from goexfsd.view.node import Node
from goexfsd.view.places import DIRECTORY, PIN
from goexfsd.view.tree import Tree

BIG = 4 << 20
"""Bytes of data that may be copied while everybody waits."""

NAMELESS = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ATTEMPTS = 3
_SMALL = 128 << 10
"""Bytes that are copied in one piece."""
_TINY = 16 << 10
"""Fewer are copied where they could be shared, too: that costs half."""

Copied = tuple[bytes, int, os.stat_result, bytes | None]
"""A copy's name in ``work`` (empty: it has none), a descriptor of it, what it is a copy of, and
its bytes if known."""

T = TypeVar("T")


class BigCopy(Exception):
    """The data of ``node`` must be copied first, up to ``length`` bytes."""

    def __init__(self, node: Node, length: int, attempt: int = 1) -> None:
        super().__init__()
        self.node = node
        self.length = length
        self.attempt = attempt


def fail(code: int) -> OSError:
    return OSError(code, os.strerror(code))


class Copier:
    """Copies up, over the nodes of one tree."""

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
        st = tree.lower_status(node)
        name, at = tree.lower_place(node)
        source = in_dir(at, name)
        path = tree.lower_path(node)
        if tree.is_root(node):
            here, there = layer.root_names[node.root], layer.upper_fd
            ino = copyup.dress(layer, node.root, source, there, here, st)
            layer.record(Kind.COPY, node.root, ino, path, layer.identity(node.root, st))
        else:
            tmp = copyup.build(layer, name, at, st)
            try:
                ino = copyup.dress(layer, node.root, source, layer.work_fd, tmp, st)
                layer.record(Kind.COPY, node.root, ino, path, layer.identity(node.root, st))
                self._put(tree.parent_of(node), tmp, node.name)
            except BaseException:
                layer.discard(tmp)
                raise
            here, there = node.name, tree.upper_fd(tree.parent_of(node))
        self.table.leave_lower(node)
        self.table.place_upper(node, ino)
        node.subdirs = 0
        if layer.quota is not None and not tree.is_root(node):
            layer.quota.spend(0, 1)

    def _put(self, parent: Node, made: bytes | int, name: bytes) -> None:
        """Rename from ``work`` (or link a nameless file) into place, where nothing is yet,
        without touching the directory's times."""
        at = self.tree.upper_fd(parent)
        st = os.fstat(at)
        if isinstance(made, int):
            self.act((parent,), kernel.linkat_fd, made, at, name)
        else:
            flags = kernel.RENAME_NOREPLACE
            self.act((parent,), kernel.renameat2, self.layer.work_fd, made, at, name, flags)
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
        if node.gone and node.kind != stat.S_IFREG:
            self._copy_gone(node)
        elif node.kind == DIRECTORY:
            self.make_upper(node)
        elif node.kind == stat.S_IFREG:
            self._copy_file(node, length, at)
        else:
            self._copy_special(node)

    def _own_name(self, node: Node, wanted: tuple[Node, bytes] | None) -> tuple[Node, bytes] | None:
        """A name under which the base still has what a lower node shows."""
        parent = node.parent
        if node.gone or parent is None or node.key is None:
            return None
        names = [(parent, node.name), *(node.more or ())]
        if wanted is not None:
            names.insert(0, wanted)
        for parent, name in names:  # it is known by them: the upper has nothing there
            with contextlib.suppress(OSError):  # a directory that is closed by now
                base = None if parent.gone else self.tree.base_entry(parent, name)
                if base is not None and base.st_ino == node.key[2]:
                    return parent, name
        return None

    def _copy_special(self, node: Node) -> None:
        tree, layer = self.tree, self.layer
        parent = tree.parent_of(node)
        st = tree.lower_status(node)
        name, at = tree.lower_place(node)
        self.make_upper(parent)
        tmp = copyup.build(layer, name, at, st)
        try:
            ino = copyup.dress(layer, node.root, in_dir(at, name), layer.work_fd, tmp, st)
            self._install(node, tmp, st, (parent, name), ino)
        except BaseException:
            layer.discard(tmp)
            raise
        if layer.quota is not None:
            layer.quota.spend(0, 1)

    def _copy_gone(self, node: Node) -> None:
        """Give an open entry that was removed a nameless copy, to take its new attributes."""
        layer = self.layer
        if node.fd < 0 or node.kind == stat.S_IFLNK:
            raise fail(errno.ENOENT)
        st = os.fstat(node.fd)
        tmp = copyup.build(layer, b"", node.fd, st)
        try:
            copyup.dress(layer, node.root, fd_path(node.fd), layer.work_fd, tmp, st)
            fd = os.open(tmp, PIN, dir_fd=layer.work_fd)
        finally:
            layer.discard(tmp)
        self._become_nameless(node, fd)
        os.close(node.fd)
        node.fd = fd
        if layer.quota is not None:
            layer.quota.spend(0, 1)

    def _copy_file(self, node: Node, length: int | None, wanted: tuple[Node, bytes] | None) -> None:
        where = self._own_name(node, wanted)
        quota = self.layer.quota
        if quota is not None:
            quota.want_inode()
        if where is not None:
            self.make_upper(where[0])
        source: copyup.Source
        try:
            source = src = self._open_source(node)
        except PermissionError:
            src, source = self._open_unread(node, length)
        try:
            tmp, dst, st, data = self._copy_contents(node, src, length)
            try:
                identity = self.layer.identity(node.root, st)
                if where is not None:
                    self.layer.keep_original(node.root, identity, src, data)
                made = os.fstat(dst)
                if where is not None and not tmp and copyup.is_plain(source, st, made):
                    os.utime(dst, ns=(st.st_atime_ns, st.st_mtime_ns))
                    self._install(node, dst, st, where, made.st_ino, identity)
                else:
                    self._dress_and_install(node, source, (tmp, dst, st, data), where)
            except BaseException:
                os.close(dst)
                raise
        finally:
            if src != node.fd:
                os.close(src)
        if quota is not None:
            quota.spend_on(os.fstat(dst))
        self._adopt_fd(node, dst)

    def _dress_and_install(
        self,
        node: Node,
        source: copyup.Source,
        copied: Copied,
        where: tuple[Node, bytes] | None,
    ) -> None:
        """Give a copy what else the base file has, and then its place."""
        layer = self.layer
        tmp, dst, st, _ = copied
        if not tmp:
            tmp = layer.unique()
            kernel.linkat_fd(dst, layer.work_fd, tmp)
        try:
            at = layer.work_fd
            ino = copyup.dress(layer, node.root, source, at, tmp, st, os.fstat(dst))
            if where is not None:
                self._install(node, tmp, st, where, ino)
            elif not self._install_for_others(node, tmp, st):
                os.unlink(tmp, dir_fd=at)
                self._become_nameless(node, dst)
        except BaseException:
            layer.discard(tmp)
            raise

    def _open_source(self, node: Node) -> int:
        if node.readable:
            return node.fd
        if node.gone:
            return os.open(fd_path(node.fd), os.O_RDONLY | os.O_CLOEXEC)
        return self.tree.open_lower(node)

    def _open_unread(self, node: Node, length: int | None) -> tuple[int, bytes]:
        """A descriptor and a path for a base file that its owner may not read: enough, where
        none of its bytes are wanted."""
        if node.gone:
            raise fail(errno.EACCES)
        fd = self.tree.open_lower(node, PIN)
        if length != 0 and os.fstat(fd).st_size:
            os.close(fd)
            raise fail(errno.EACCES)
        name, at = self.tree.lower_place(node)
        return fd, in_dir(at, name)

    def _copy_contents(self, node: Node, src: int, length: int | None) -> Copied:
        """The data in ``work``; again if the base changed meanwhile (the identity that counts
        is the one from before, so a commit will see it)."""
        now = os.fstat(src)
        size = now.st_size if length is None else min(length, now.st_size)
        if self.layer.quota is not None:
            self.layer.quota.want(min(size, now.st_blocks * 512))
        made = self._take_aside(node, now, size)
        if made is not None:
            return made
        st = now
        mode = stat.S_IMODE(now.st_mode)
        for attempt in range(1, _ATTEMPTS + 1):
            size = st.st_size if length is None else min(length, st.st_size)
            dst = self._nameless(mode)
            data: bytes | None = None
            try:
                if size and not self._reflink(src, dst, st, size):
                    if min(size, st.st_blocks * 512) > BIG:
                        raise BigCopy(node, size)
                    if size <= _SMALL and st.st_blocks * 512 >= size:
                        data = copyup.copy_small(src, dst, size)
                    if data is None:
                        copyup.copy_data(src, dst, size)
                after = os.fstat(src)
                if same_version(st, after):
                    break
                data = None
                if attempt == _ATTEMPTS:
                    break
                st = after
            except BaseException:
                os.close(dst)
                raise
            os.close(dst)
        return b"", dst, st, data

    def _nameless(self, mode: int) -> int:
        """A new file in ``work``, which goes with its descriptor unless it gets a name."""
        return os.open(b".", NAMELESS, mode & 0o777 | 0o600, dir_fd=self.layer.work_fd)

    def _empty(self) -> tuple[bytes, int]:
        """A new file in ``work``: its name and a descriptor.  (Nobody else gets there.)"""
        name = self.layer.unique()
        return name, os.open(name, CREATE, 0o600, dir_fd=self.layer.work_fd)

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

    def _take_aside(self, node: Node, st: os.stat_result, size: int) -> Copied | None:
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
        return aside.name, aside.fd, aside.st, None

    def _reflink(self, src: int, dst: int, st: os.stat_result, size: int) -> bool:
        if size < _TINY or st.st_dev in self._unlike:
            return False
        if not copyup.reflink(src, dst):
            self._unlike.add(st.st_dev)
            return False
        if size < st.st_size:
            os.ftruncate(dst, size)
        return True

    def _install(
        self,
        node: Node,
        made: bytes | int,
        st: os.stat_result,
        where: tuple[Node, bytes],
        ino: int,
        identity: Identity | None = None,
    ) -> None:
        """A finished copy (its name in ``work``, or the descriptor of one without), which is the
        inode ``ino``, comes into place; ``identity`` is that of ``st``, if it is known."""
        layer, table = self.layer, self.table
        parent, name = where
        path = self.tree.lower_path(parent, name)
        layer.record(Kind.COPY, node.root, ino, path, identity or layer.identity(node.root, st))
        if st.st_nlink > 1 and node.key is not None:
            self._index(node, made)
        self._put(parent, made, name)
        node.lower = False
        if not node.indexed:
            table.leave_lower(node)
        table.place_upper(node, ino)

    def _index(self, node: Node, made: bytes | int) -> None:
        """Give a finished copy its name in the index, where all the base's names find it."""
        layer = self.layer
        assert node.key is not None
        index = layer.index_name(node.key)
        layer.discard_at(layer.index_fd, index)
        if isinstance(made, int):
            kernel.linkat_fd(made, layer.index_fd, index)
        else:
            at, there = layer.work_fd, layer.index_fd
            os.link(made, index, src_dir_fd=at, dst_dir_fd=there, follow_symlinks=False)
        node.indexed = True

    def _install_for_others(self, node: Node, tmp: bytes, st: os.stat_result) -> bool:
        """An open base file lost the name that it was known by, but the base has others: put
        its copy where they find it.  False if there are none."""
        layer, key = self.layer, node.key
        covered = layer.ledger.covered.get(key) if key is not None else None
        if key is None or not node.gone or not covered:
            return False
        if layer.ledger.visible_base_names(key) <= 0:
            return False
        ino = os.stat(tmp, dir_fd=layer.work_fd, follow_symlinks=False).st_ino
        path = min(covered)
        layer.record(Kind.COPY, node.root, ino, path, layer.identity(node.root, st))
        self._index(node, tmp)
        os.unlink(tmp, dir_fd=layer.work_fd)
        node.lower = False
        self.table.place_upper(node, ino)
        return True

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


def same_version(before: os.stat_result, after: os.stat_result) -> bool:
    """Whether a base file was left alone between two looks."""
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
