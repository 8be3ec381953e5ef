"""Requests as the kernel sends them, answered by the handlers' own methods: bytes in, bytes out.

Each function takes the view, the request's node, its body and its caller, and returns the body
of the answer.  What it raises is the lane's business.  ``NO_ANSWER`` is for what the kernel
expects none to.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from goexfsd.view import wire
from goexfsd.view.directory import Directories

NO_ANSWER: Final = object()
_NS = 1_000_000_000
_EMPTY = b""
_KILLS = wire.WRITE_KILL_SUIDGID


class Caller:
    """Who asks; one for all requests, as one follows the other."""

    __slots__ = ("gid", "pid", "uid", "umask")

    def __init__(self) -> None:
        self.uid = self.gid = self.pid = self.umask = 0


@dataclass(slots=True)
class Fields:
    """What a setattr is about, and the values: pyfuse3's SetattrFields and EntryAttributes."""

    update_size: bool
    update_mode: bool
    update_uid: bool
    update_gid: bool
    update_atime: bool
    update_mtime: bool
    st_size: int
    st_mode: int
    st_uid: int
    st_gid: int
    st_atime_ns: int
    st_mtime_ns: int


class Direct(Directories):
    """The handlers, with a buffer for data that passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.data = memoryview(mmap.mmap(-1, 1 << 20))


def _plain(handler: Any) -> Callable[..., Any]:
    """The method within a pyfuse3 handler."""
    return cast(Callable[..., Any], handler.__wrapped__)


# -- names -----------------------------------------------------------------------------------------


def _lookup(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    return cast(bytes, type(view).lookup.__wrapped__(view, inode, bytes(body[:-1]), caller))


def _forget(view: Direct, inode: int, body: memoryview, caller: Caller) -> object:
    view.forget_one(inode, wire.FORGET_IN.unpack_from(body)[0])
    return NO_ANSWER


def _batch_forget(view: Direct, inode: int, body: memoryview, caller: Caller) -> object:
    count, _ = wire.BATCH_FORGET_IN.unpack_from(body)
    at = wire.BATCH_FORGET_IN.size
    for one, many in wire.FORGET_ONE.iter_unpack(body[at : at + count * wire.FORGET_ONE.size]):
        view.forget_one(one, many)
    return NO_ANSWER


def _create(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    flags, mode, caller.umask, _ = wire.CREATE_IN.unpack_from(body)
    name = bytes(body[wire.CREATE_IN.size : -1])
    fh, entry = _plain(type(view).create)(view, inode, name, mode, flags, caller)
    return cast(bytes, entry + wire.OPEN_OUT.pack(fh, wire.FOPEN_KEEP_CACHE, 0))


def _tmpfile(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    _, mode, caller.umask, _ = wire.CREATE_IN.unpack_from(body)
    fh, entry = view.tmpfile(inode, mode, caller)
    return entry + wire.OPEN_OUT.pack(fh, wire.FOPEN_KEEP_CACHE, 0)


def _mknod(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    mode, rdev, caller.umask, _ = wire.MKNOD_IN.unpack_from(body)
    name = bytes(body[wire.MKNOD_IN.size : -1])
    return _plain(type(view).mknod)(view, inode, name, mode, rdev, caller)


def _mkdir(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    mode, caller.umask = wire.MKDIR_IN.unpack_from(body)
    name = bytes(body[wire.MKDIR_IN.size : -1])
    return _plain(type(view).mkdir)(view, inode, name, mode, caller)


def _symlink(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    name, target = wire.names(bytes(body))
    return _plain(type(view).symlink)(view, inode, name, target, caller)


def _link(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    (old,) = wire.LINK_IN.unpack_from(body)
    name = bytes(body[wire.LINK_IN.size : -1])
    return _plain(type(view).link)(view, old, inode, name, caller)


def _unlink(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    _plain(type(view).unlink)(view, inode, bytes(body[:-1]), caller)
    return _EMPTY


def _rmdir(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    _plain(type(view).rmdir)(view, inode, bytes(body[:-1]), caller)
    return _EMPTY


def _rename(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    (to,) = wire.RENAME_IN.unpack_from(body)
    old, new = wire.names(bytes(body[wire.RENAME_IN.size :]))
    _plain(type(view).rename)(view, inode, old, to, new, 0, caller)
    return _EMPTY


def _rename2(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    to, flags, _ = wire.RENAME2_IN.unpack_from(body)
    old, new = wire.names(bytes(body[wire.RENAME2_IN.size :]))
    _plain(type(view).rename)(view, inode, old, to, new, flags, caller)
    return _EMPTY


# -- metadata --------------------------------------------------------------------------------------


def _getattr(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    node = view.tree.table.by_id.get(inode)
    if node is None:
        raise OSError(errno.ESTALE, "no such node")
    return view.attributes.attr(node, view.status(node))


def _setattr(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    valid, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _ = (
        wire.SETATTR_IN.unpack_from(body)
    )
    now = time.time_ns() if valid & (wire.FATTR_ATIME_NOW | wire.FATTR_MTIME_NOW) else 0
    fields = Fields(
        bool(valid & wire.FATTR_SIZE),
        bool(valid & wire.FATTR_MODE),
        bool(valid & wire.FATTR_UID),
        bool(valid & wire.FATTR_GID),
        bool(valid & (wire.FATTR_ATIME | wire.FATTR_ATIME_NOW)),
        bool(valid & (wire.FATTR_MTIME | wire.FATTR_MTIME_NOW)),
        size,
        mode,
        uid,
        gid,
        now if valid & wire.FATTR_ATIME_NOW else _signed(atime) * _NS + atime_ns,
        now if valid & wire.FATTR_MTIME_NOW else _signed(mtime) * _NS + mtime_ns,
    )
    return _plain(type(view).setattr)(view, inode, fields, fields, None, caller)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _readlink(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    return _plain(type(view).readlink)(view, inode, caller)


def _getxattr(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    size, _ = wire.GETXATTR_IN.unpack_from(body)
    name = bytes(body[wire.GETXATTR_IN.size : -1])
    return _sized(_plain(type(view).getxattr)(view, inode, name, caller), size)


def _listxattr(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    size, _ = wire.GETXATTR_IN.unpack_from(body)
    found = _plain(type(view).listxattr)(view, inode, caller)
    return _sized(b"".join(name + b"\0" for name in found), size)


def _sized(value: bytes, size: int) -> bytes:
    if not size:
        return wire.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value


def _removexattr(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    _plain(type(view).removexattr)(view, inode, bytes(body[:-1]), caller)
    return _EMPTY


# -- contents --------------------------------------------------------------------------------------


def _open(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    flags, _ = wire.OPEN_IN.unpack_from(body)
    fh, same = _plain(type(view).open)(view, inode, flags, caller)
    return wire.OPEN_OUT.pack(fh, wire.FOPEN_KEEP_CACHE if same else 0, 0)


def _read(view: Direct, inode: int, body: memoryview, caller: Caller) -> memoryview:
    fh, offset, size, _, _, _, _ = wire.READ_IN.unpack_from(body)
    node = view.readable(fh)
    into = view.data[:size]
    return into[: os.preadv(node.fd, [into], offset)]


def _write(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    fh, offset, size, flags, _, _, _ = wire.WRITE_IN.unpack_from(body)
    at = wire.WRITE_IN.size
    done = view.put(fh >> 1, offset, body[at : at + size], kills=bool(flags & _KILLS))
    return wire.WRITE_OUT.pack(done, 0)


def _fallocate(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    fh, offset, length, mode, _ = wire.FALLOCATE_IN.unpack_from(body)
    view.allocate(fh >> 1, mode, offset, length, kills=bool(fh & 1))
    return _EMPTY


def _lseek(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    fh, offset, whence, _ = wire.LSEEK_IN.unpack_from(body)
    return wire.LSEEK_OUT.pack(os.lseek(view.readable(fh).fd, offset, whence))


def _copy_file_range(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    fh, offset, _, to, at, length, _ = wire.COPY_FILE_RANGE_IN.unpack_from(body)
    done = view.copy_range(fh >> 1, offset, to >> 1, at, length, kills=bool(to & 1))
    return wire.WRITE_OUT.pack(done, 0)


def _release(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    _plain(type(view).release)(view, wire.FH_IN.unpack_from(body)[0])
    return _EMPTY


# -- directories -----------------------------------------------------------------------------------


def _opendir(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    number = _plain(type(view).opendir)(view, inode, caller)
    listing = view.listings[number]
    flags = wire.FOPEN_CACHE_DIR
    if view.as_listed(listing.node):
        flags |= wire.FOPEN_KEEP_CACHE
    return wire.OPEN_OUT.pack(number, flags, 0)


def _releasedir(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    _plain(type(view).releasedir)(view, wire.FH_IN.unpack_from(body)[0])
    return _EMPTY


def _readdirplus(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    fh, offset, size, _, _, _, _ = wire.READ_IN.unpack_from(body)
    return view.fill(view.listings[fh], offset, size)


DIRECT: dict[int, Callable[[Direct, int, memoryview, Caller], Any]] = {
    wire.LOOKUP: _lookup,
    wire.FORGET: _forget,
    wire.BATCH_FORGET: _batch_forget,
    wire.CREATE: _create,
    wire.TMPFILE: _tmpfile,
    wire.MKNOD: _mknod,
    wire.MKDIR: _mkdir,
    wire.SYMLINK: _symlink,
    wire.LINK: _link,
    wire.UNLINK: _unlink,
    wire.RMDIR: _rmdir,
    wire.RENAME: _rename,
    wire.RENAME2: _rename2,
    wire.GETATTR: _getattr,
    wire.SETATTR: _setattr,
    wire.READLINK: _readlink,
    wire.GETXATTR: _getxattr,
    wire.LISTXATTR: _listxattr,
    wire.REMOVEXATTR: _removexattr,
    wire.OPEN: _open,
    wire.READ: _read,
    wire.WRITE: _write,
    wire.FALLOCATE: _fallocate,
    wire.LSEEK: _lseek,
    wire.COPY_FILE_RANGE: _copy_file_range,
    wire.RELEASE: _release,
    wire.OPENDIR: _opendir,
    wire.RELEASEDIR: _releasedir,
    wire.READDIRPLUS: _readdirplus,
}
