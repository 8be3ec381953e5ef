"""Handlers for names: lookup, creating, removing, renaming, linking, and forgetting.

What a name leads to is the tree's to say, what happens to it the changer's; here it is turned
into requests and replies, and the caller's credentials and umask are applied.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from collections.abc import Sequence

from pyfuse3 import EntryAttributes, FileInfo

from goexfsd.layer.format import owner_needs
from goexfsd.layer.writer import fd_path
from goexfsd.view.copier import CREATE, NAMELESS
from goexfsd.view.handling import Context, State, as_entry, entry_handler, handler
from goexfsd.view.node import TOP, Node

_SPECIAL = stat.S_ISUID | stat.S_ISGID


def _as_created(done: tuple[int, bytes]) -> tuple[FileInfo, EntryAttributes]:
    return FileInfo(fh=done[0], keep_cache=True), as_entry(done[1])


class Names(State):
    """lookup … link."""

    # -- finding -------------------------------------------------------------------------------

    @entry_handler
    def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> bytes:
        parent = self.known(parent_inode)
        if name == b".":
            return self.reply(parent, None, ours=False)
        if name == b"..":
            return self.reply(parent.parent or parent, None, ours=False)
        if parent.root < 0:
            return self._lookup_root(name)
        if len(name) > 255:
            raise OSError(errno.ENAMETOOLONG, "name too long")
        if not parent.watch:
            self.tree.watch(parent)
        found = self.tree.find(parent, name)
        if found is None:
            return self.attributes.absent[parent.root]
        st, upper = found
        return self.reply(self.tree.node(parent, name, st, upper), st, ours=upper)

    def _lookup_root(self, name: bytes) -> bytes:
        for node in self.tree.roots:
            if node.name == name:
                return self.reply(node, None, ours=True)
        raise OSError(errno.ENOENT, "no such root")

    def reply(self, node: Node, st: os.stat_result | None, *, ours: bool) -> bytes:
        """The answer that lets the kernel know a node: it will have to forget it."""
        if st is None or node.upper != ours:
            st = self.status(node)  # found by a base name, but copied up
        entry = self.attributes.entry(node, st, ours)
        node.lookups += 1
        return entry

    def status(self, node: Node) -> os.stat_result:
        """The status of a node, the directory of all roots included."""
        if node.root >= 0:
            return self.tree.status(node)
        st = os.fstat(self.tree.layer.upper_fd)
        # A sequence alone would leave out the rest: st_rdev, st_blocks, nanoseconds.
        named = {name: getattr(st, name) for name in dir(st) if name.startswith("st_")}
        return os.stat_result((stat.S_IFDIR | 0o555, *st[1:]), named)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            self.forget_one(inode, count)
        if self.tree.table.dropped:
            self.tree.tidy()

    def forget_one(self, inode: int, count: int) -> None:
        """The kernel has forgotten so many of its lookups."""
        table = self.tree.table
        node = table.by_id.get(inode)
        if node is None:
            return
        node.lookups -= count
        if node.lookups <= 0 and inode != TOP:
            node.lookups = 0
            table.collect(node)

    # -- creating --------------------------------------------------------------------------------

    def _mode(self, parent: Node, mode: int, ctx: Context) -> int:
        """The mode for a new entry: a default ACL stands in for the umask."""
        self.changer.make_upper(parent)
        if self.changer.default_acl(parent) is not None:
            return mode
        return mode & ~ctx.umask

    def _owner(self, parent: Node, ctx: Context) -> tuple[int, int] | None:
        """Whom a new entry is to be given to; None: it is the worker's own."""
        if not self.tree.layer.privileged:
            return None
        if self.squash is not None and ctx.uid == self.squash[0]:
            return None
        if ctx.uid == 0 and ctx.gid == 0:
            return None
        inherits = os.fstat(self.tree.upper_fd(parent)).st_mode & stat.S_ISGID
        return ctx.uid, -1 if inherits else ctx.gid

    def _lent(self, mode: int) -> int:
        """The rights that the worker keeps on a new entry, whatever mode was asked for."""
        return 0 if self.tree.layer.privileged else owner_needs(mode)

    def _withhold(self, parent: Node, name: bytes, mode: int) -> None:
        """Have the view withhold what a new entry's mode does and the layer cannot."""
        if self._lent(mode) & ~mode:
            self.tree.layer.stand(parent.root, self.tree.upper_fd(parent), name, mode)

    def _made(self, parent: Node, name: bytes) -> bytes:
        """The answer for an entry that was just created."""
        self.tree.layer.changes += 1
        st = os.stat(name, dir_fd=self.tree.upper_fd(parent), follow_symlinks=False)
        return self.reply(self.tree.node(parent, name, st, True), st, ours=True)

    @functools.partial(handler, answer=_as_created)
    def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Context
    ) -> tuple[int, bytes]:
        parent = self.known(parent_inode)
        self.changer.may_create(parent, name)
        mode = self._mode(parent, stat.S_IMODE(mode), ctx)
        owner = self._owner(parent, ctx)

        def make(at: int, to: bytes) -> int:
            fd = os.open(to, CREATE, mode | self._lent(stat.S_IFREG), dir_fd=at)
            if owner is not None:
                os.fchown(fd, *owner)
                if mode & _SPECIAL:
                    os.fchmod(fd, mode)
            return fd

        try:
            fd = self.changer.create(parent, name, make)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            # The base has it since the kernel was told that it has not: let it look again.
            raise OSError(errno.ESTALE, "there is such an entry by now") from None
        self._withhold(parent, name, stat.S_IFREG | mode)
        self.tree.layer.changes += 1
        st = os.fstat(fd)
        node = self.tree.node(parent, name, st, True)
        node.fd, node.readable, node.writable, node.opens = fd, True, True, 1
        node.plain = True  # nobody can have given it capabilities yet
        entry = self.attributes.entry(node, st, True)
        node.lookups += 1
        return self.handle(node, ctx), entry

    def tmpfile(self, parent_inode: int, mode: int, ctx: Context) -> tuple[int, bytes]:
        """open(2) with O_TMPFILE: a file without a name, which ``link`` may give it one."""
        parent = self.known(parent_inode)
        self.changer.may_create(parent, b"")
        mode = self._mode(parent, stat.S_IMODE(mode), ctx)
        owner = self._owner(parent, ctx)
        quota = self.tree.layer.quota
        if quota is not None:
            quota.want_inode()
        self.tree.layer.pass_over_the_dead()
        path = fd_path(self.tree.upper_fd(parent))
        fd = self.changer.act((parent,), os.open, path, NAMELESS, mode | self._lent(stat.S_IFREG))
        if owner is not None:
            os.fchown(fd, *owner)
            if mode & _SPECIAL:
                os.fchmod(fd, mode)
        st = os.fstat(fd)
        if self._lent(stat.S_IFREG) & ~mode:
            self.tree.layer.lend_mode(parent.root, st.st_ino, stat.S_IFREG | mode)
        if quota is not None:
            quota.spend_on(st)
        node = self.changer.nameless(parent.root, fd, st)
        entry = self.attributes.entry(node, st, True)
        node.lookups += 1
        return self.handle(node, ctx), entry

    def handle(self, node: Node, ctx: Context) -> int:
        """A file handle: the node's number, and whether writes take away set-id bits (in a
        session of root the disk would not, for the worker is root)."""
        return node.id << 1 | (ctx.uid != 0 and self.tree.layer.privileged)

    @entry_handler
    def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Context) -> bytes:
        parent = self.known(parent_inode)
        self.changer.may_create(parent, name)
        if stat.S_ISCHR(mode) and rdev == 0:
            raise OSError(errno.EPERM, "a whiteout is not for scripts to make")
        mode = self._mode(parent, mode, ctx)
        owner = self._owner(parent, ctx)

        def make(at: int, to: bytes) -> None:
            os.mknod(to, mode | self._lent(mode), rdev, dir_fd=at)
            if owner is not None:
                os.chown(to, *owner, dir_fd=at, follow_symlinks=False)
                if mode & _SPECIAL:
                    os.chmod(to, stat.S_IMODE(mode), dir_fd=at)

        self.changer.create(parent, name, make)
        self._withhold(parent, name, mode)
        return self._made(parent, name)

    @entry_handler
    def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Context) -> bytes:
        parent = self.known(parent_inode)
        self.changer.may_create(parent, name)
        mode = self._mode(parent, stat.S_IMODE(mode), ctx)
        owner = self._owner(parent, ctx)

        def make(at: int, to: bytes) -> None:
            os.mkdir(to, mode | self._lent(stat.S_IFDIR), dir_fd=at)
            self.tree.layer.set_opaque(at, to)
            if owner is not None:
                os.chown(to, *owner, dir_fd=at, follow_symlinks=False)

        self.changer.create(parent, name, make, directory=True)
        self._withhold(parent, name, stat.S_IFDIR | mode)
        return self._made(parent, name)

    @entry_handler
    def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Context) -> bytes:
        parent = self.known(parent_inode)
        self.changer.may_create(parent, name)
        self.changer.make_upper(parent)
        owner = self._owner(parent, ctx)

        def make(at: int, to: bytes) -> None:
            os.symlink(target, to, dir_fd=at)
            if owner is not None:
                os.chown(to, *owner, dir_fd=at, follow_symlinks=False)

        self.changer.create(parent, name, make)
        return self._made(parent, name)

    @entry_handler
    def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Context) -> bytes:
        node, parent = self.known(inode), self.known(new_parent_inode)
        self.changer.link(node, parent, new_name)
        self.tree.layer.changes += 1
        return self.reply(node, None, ours=True)

    # -- removing and renaming -------------------------------------------------------------------

    @handler
    def unlink(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        self.changer.remove(self.known(parent_inode), name, directory=False)
        self.tree.layer.changes += 1

    @handler
    def rmdir(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        self.changer.remove(self.known(parent_inode), name, directory=True)
        self.tree.layer.changes += 1

    @handler
    def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Context,
    ) -> None:
        parent, to = self.known(parent_inode_old), self.known(parent_inode_new)
        self.changer.rename(parent, name_old, to, name_new, flags)
        self.tree.layer.changes += 1
