"""Handlers for metadata: getattr, setattr, readlink, extended attributes and ACLs, statfs.

An attribute of the user's whose name is one of the layer's markers is stored under an escaped
name (see ``layer/format.py``), so nothing a script writes is ever taken for a marker.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import replace

from pyfuse3 import EntryAttributes, SetattrFields, StatvfsData

from goexfsd.layer.format import ACCESS_ACL, acl_with_mode, escape_xattr, unescape_xattr
from goexfsd.layer.origins import NOTHING, Kind
from goexfsd.layer.quota import Quota
from goexfsd.view.data import Data
from goexfsd.view.handling import Context, attr_handler, handler
from goexfsd.view.names import Names
from goexfsd.view.node import Node

CAPABILITY = b"security.capability"
_ACLS = (ACCESS_ACL, b"system.posix_acl_default")
_NOW_NS = 100_000_000
"""A time nearer to the clock than this was not given by anybody (utimensat with NOW)."""


class Metadata(Names, Data):
    """getattr … statfs."""

    @attr_handler
    def getattr(self, inode: int, ctx: Context) -> bytes:
        node = self.known(inode)
        return self.attributes.attr(node, self.status(node))

    @attr_handler
    def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: Context,
    ) -> bytes:
        node = self.known(inode)
        if node.root < 0:
            raise OSError(errno.EPERM, "the directory of roots is fixed")
        uid, gid = self._ids(attr, fields, ctx)
        self.tree.layer.changes += 1
        if fields.update_size:
            kills = ctx.uid != 0 and self.tree.layer.privileged
            self.truncate(node, attr.st_size, kills)
        if uid != -1 or gid != -1:
            self._chown(node, uid, gid)
        elif fields.update_uid or fields.update_gid:
            self._given_to_whom_it_was(node)
        if fields.update_mode:
            self._chmod(node, stat.S_IMODE(attr.st_mode))
        if fields.update_atime or fields.update_mtime:
            self._set_times(node, attr, fields)
        return self.attributes.attr(node, self.status(node))

    def _ids(self, attr: EntryAttributes, fields: SetattrFields, ctx: Context) -> tuple[int, int]:
        """The owner to set, -1 for what stays.  Where the view squashes owners, giving an
        entry to whom it shows already is nothing."""
        uid = attr.st_uid if fields.update_uid else -1
        gid = attr.st_gid if fields.update_gid else -1
        if self.squash is None or ctx.uid != self.squash[0]:
            return uid, gid
        if uid not in (-1, self.squash[0]) or gid not in (-1, self.squash[1]):
            raise OSError(errno.EPERM, "owners cannot be changed from the sandbox")
        return -1, -1

    def _given_to_whom_it_was(self, node: Node) -> None:
        """What a chown takes away all the same."""
        if node.kind == stat.S_IFREG and self.status(node).st_mode & (stat.S_ISUID | stat.S_ISGID):
            self.changer.copy_up(node)
            self.drop_set_ids(node)

    def _chmod(self, node: Node, mode: int) -> None:
        self.changer.copy_up(node)
        layer = self.tree.layer
        needs = self._lent(node.kind)
        if needs & ~mode:
            layer.lend_mode(node.root, node.upper_ino, node.kind | mode)
        path, follow = self.tree.path(node)
        if follow:
            os.chmod(path, mode | needs)
        else:
            name, at = self.tree.place(node)
            os.chmod(name, mode | needs, dir_fd=at)
        if needs & ~mode == 0 and node.upper_ino in layer.ledger.modes:
            layer.return_mode(node.root, node.upper_ino)

    def _chown(self, node: Node, uid: int, gid: int) -> None:
        self.changer.copy_up(node)
        path, follow = self.tree.path(node)
        if follow:
            os.chown(path, uid, gid)
        else:
            name, at = self.tree.place(node)
            os.chown(name, uid, gid, dir_fd=at, follow_symlinks=False)
        if node.upper_ino in self.tree.ledger.owners:
            st = self.tree.status(node)
            shown = replace(NOTHING, uid=st.st_uid, gid=st.st_gid)
            self.tree.layer.record(Kind.OWNER, node.root, node.upper_ino, b"", shown)

    def _set_times(self, node: Node, attr: EntryAttributes, fields: SetattrFields) -> None:
        self.changer.copy_up(node)
        st = self.tree.status(node)
        atime = attr.st_atime_ns if fields.update_atime else st.st_atime_ns
        mtime = attr.st_mtime_ns if fields.update_mtime else st.st_mtime_ns
        given = fields.update_mtime and abs(time.time_ns() - mtime) > _NOW_NS
        if given and node.upper_ino not in self.tree.ledger.timed:
            self.tree.layer.record(Kind.TIMES, node.root, node.upper_ino, b"", NOTHING)
        path, follow = self.tree.path(node)
        if follow:
            os.utime(path, ns=(atime, mtime))
        else:
            name, at = self.tree.place(node)
            os.utime(name, ns=(atime, mtime), dir_fd=at, follow_symlinks=False)

    @handler
    def readlink(self, inode: int, ctx: Context) -> bytes:
        node = self.known(inode)
        if node.gone:
            return os.readlink(b"", dir_fd=node.fd)
        name, at = self.tree.place(node)
        return os.readlink(name, dir_fd=at)

    # -- extended attributes -----------------------------------------------------------------------

    @handler
    def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        node = self.known(inode)
        if node.plain and name == CAPABILITY:
            raise OSError(errno.ENODATA, "no such attribute")
        if node.root < 0:
            raise OSError(errno.ENODATA, "no such attribute")
        try:
            return self._get(node, name)
        except OSError as error:
            if name == CAPABILITY and error.errno == errno.ENODATA:
                node.plain = node.upper
            raise

    def _get(self, node: Node, name: bytes) -> bytes:
        stored = escape_xattr(name) if node.upper else name
        if node.readable:
            value = os.getxattr(node.fd, stored)
        else:
            path, follow = self.tree.path(node)
            value = os.getxattr(path, stored, follow_symlinks=follow)
        if name == ACCESS_ACL and node.upper:
            mode = self.tree.ledger.modes.get(node.upper_ino)
            return value if mode is None else acl_with_mode(value, mode)
        return value

    @handler
    def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        node = self.known(inode)
        if node.root < 0:
            return []
        path, follow = self.tree.path(node)
        names = map(os.fsencode, os.listxattr(path, follow_symlinks=follow))
        if not node.upper:
            return list(names)
        return [name for stored in names if (name := unescape_xattr(stored)) is not None]

    @handler
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Context) -> None:
        node = self._for_xattr(inode, name)
        path, follow = self.tree.path(node)
        if self.tree.layer.quota is not None:
            self.tree.layer.quota.want(len(name) + len(value))
            self.tree.layer.quota.spend(len(name) + len(value))
        os.setxattr(path, escape_xattr(name), value, follow_symlinks=follow)
        if name == ACCESS_ACL and not node.gone:  # it has the owner's bits of the mode
            place, at = self.tree.place(node)
            self.tree.layer.stand(node.root, at, place)
        self._forget_xattrs(node)

    @handler
    def removexattr(self, inode: int, name: bytes, ctx: Context) -> None:
        node = self.known(inode)
        try:
            self._get(node, name)
        except OSError as error:
            if error.errno == errno.ENODATA and name in _ACLS:
                return  # as on a local disk
            raise
        node = self._for_xattr(inode, name)
        path, follow = self.tree.path(node)
        os.removexattr(path, escape_xattr(name), follow_symlinks=follow)
        self._forget_xattrs(node)

    def _for_xattr(self, inode: int, name: bytes) -> Node:
        node = self.known(inode)
        if node.root < 0:
            raise OSError(errno.EPERM, "the directory of roots is fixed")
        if name.startswith(b"trusted.") and not self.tree.layer.privileged:
            raise OSError(errno.EPERM, "trusted attributes are root's")
        self.changer.copy_up(node)
        self.tree.layer.changes += 1
        return node

    @staticmethod
    def _forget_xattrs(node: Node) -> None:
        node.acl = None
        node.plain = False

    @handler
    def statfs(self, ctx: Context) -> StatvfsData:
        found = os.fstatvfs(self.tree.layer.fd)
        told = StatvfsData()
        told.f_bsize, told.f_frsize = found.f_bsize, found.f_frsize
        told.f_blocks, told.f_bfree = found.f_blocks, found.f_bfree
        told.f_bavail, told.f_files = found.f_bavail, found.f_files
        told.f_ffree, told.f_favail = found.f_ffree, found.f_favail
        told.f_namemax = 255
        quota = self.tree.layer.quota
        if quota is not None:
            _limit(told, quota)
        return told


def _limit(told: StatvfsData, quota: Quota) -> None:
    """What is left is what the layer may still grow by, where that is less."""
    if quota.limit_bytes is not None:
        free = max(0, int(quota.bytes)) // told.f_frsize
        told.f_blocks = quota.limit_bytes // told.f_frsize
        told.f_bfree = told.f_bavail = min(told.f_bavail, free)
    if quota.limit_inodes is not None:
        told.f_files = quota.limit_inodes
        told.f_ffree = told.f_favail = max(0, int(quota.inodes))
