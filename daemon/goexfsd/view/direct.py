"""Requests as the kernel sends them, answered by the handlers' own methods: bytes in, bytes out.

Each function takes the view, the request's node, its body and its caller, and returns the body
of the answer.  What it raises is the lane's business.  ``NO_ANSWER`` is for what the kernel
expects none to, ``Later`` for what must not keep everybody waiting.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from goexfsd.view import wire
from goexfsd.view.data import nothing
from goexfsd.view.directory import Directories
from goexfsd.view.through import Through

NO_ANSWER: Final = object()
_NS = 1_000_000_000
_EMPTY = b""
_KILLS = wire.WRITE_KILL_SUIDGID


class Caller:
    """Who asks; one for all requests, as one follows the other."""

    __slots__ = ("gid", "pid", "uid", "umask")

    def __init__(self) -> None:
        self.uid = self.gid = self.pid = self.umask = 0


@dataclass(frozen=True, slots=True)
class Later:
    """Slow work for a thread; the answer is empty, and follows it."""

    work: Callable[[], None]


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


_OWN = (
    *("lookup", "create", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename"),
    *("setattr", "readlink", "getxattr", "listxattr", "removexattr"),
    *("open", "fsync", "release", "opendir", "releasedir", "fsyncdir"),
)


class Own(SimpleNamespace):
    """The methods within a view's pyfuse3 handlers, by the handlers' names."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class Direct(Directories):
    """The handlers, with a buffer for data that passes through."""

    through: Through | None = None
    """Where there is passthrough."""
    wants_passthrough = False

    def __init__(self) -> None:
        super().__init__()
        self.data = memoryview(mmap.mmap(-1, 1 << 20))
        within = {name: getattr(type(self), name).__wrapped__ for name in _OWN}
        self.own = Own(**{name: MethodType(method, self) for name, method in within.items()})


# -- names -----------------------------------------------------------------------------------------


def _lookup(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    return view.own.lookup(inode, bytes(body[:-1]), caller)


def _forget(view: Direct, inode: int, body: memoryview, caller: Caller) -> object:
    view.forget_one(inode, wire.FORGET_IN.unpack_from(body)[0])
    return NO_ANSWER


def _batch_forget(view: Direct, inode: int, body: memoryview, caller: Caller) -> object:
    count, _ = wire.BATCH_FORGET_IN.unpack_from(body)
    at = wire.BATCH_FORGET_IN.size
    for one, many in wire.FORGET_ONE.iter_unpack(body[at : at + count * wire.FORGET_ONE.size]):
        view.forget_one(one, many)
    return NO_ANSWER


def _create(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    flags, mode, caller.umask, _ = wire.CREATE_IN.unpack_from(body)
    name = bytes(body[wire.CREATE_IN.size : -1])
    fh, entry = view.own.create(inode, name, mode, flags, caller)
    return entry + wire.OPEN_OUT.pack(fh, wire.FOPEN_KEEP_CACHE, 0)


def _tmpfile(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    _, mode, caller.umask, _ = wire.CREATE_IN.unpack_from(body)
    fh, entry = view.tmpfile(inode, mode, caller)
    return entry + wire.OPEN_OUT.pack(fh, wire.FOPEN_KEEP_CACHE, 0)


def _mknod(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    mode, rdev, caller.umask, _ = wire.MKNOD_IN.unpack_from(body)
    name = bytes(body[wire.MKNOD_IN.size : -1])
    return view.own.mknod(inode, name, mode, rdev, caller)


def _mkdir(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    mode, caller.umask = wire.MKDIR_IN.unpack_from(body)
    name = bytes(body[wire.MKDIR_IN.size : -1])
    return view.own.mkdir(inode, name, mode, caller)


def _symlink(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    name, target = wire.names(bytes(body))
    return view.own.symlink(inode, name, target, caller)


def _link(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    (old,) = wire.LINK_IN.unpack_from(body)
    name = bytes(body[wire.LINK_IN.size : -1])
    return view.own.link(old, inode, name, caller)


def _unlink(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    view.own.unlink(inode, bytes(body[:-1]), caller)
    return _EMPTY


def _rmdir(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    view.own.rmdir(inode, bytes(body[:-1]), caller)
    return _EMPTY


def _rename(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    (to,) = wire.RENAME_IN.unpack_from(body)
    old, new = wire.names(bytes(body[wire.RENAME_IN.size :]))
    view.own.rename(inode, old, to, new, 0, caller)
    return _EMPTY


def _rename2(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    to, flags, _ = wire.RENAME2_IN.unpack_from(body)
    old, new = wire.names(bytes(body[wire.RENAME2_IN.size :]))
    view.own.rename(inode, old, to, new, flags, caller)
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
    return view.own.setattr(inode, fields, fields, None, caller)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _readlink(view: Direct, inode: int, body: memoryview, caller: Caller) -> Any:
    return view.own.readlink(inode, caller)


def _getxattr(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    size, _ = wire.GETXATTR_IN.unpack_from(body)
    name = bytes(body[wire.GETXATTR_IN.size : -1])
    return _sized(view.own.getxattr(inode, name, caller), size)


def _listxattr(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    size, _ = wire.GETXATTR_IN.unpack_from(body)
    found = view.own.listxattr(inode, caller)
    return _sized(b"".join(name + b"\0" for name in found), size)


def _sized(value: bytes, size: int) -> bytes:
    if not size:
        return wire.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value


def _removexattr(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    view.own.removexattr(inode, bytes(body[:-1]), caller)
    return _EMPTY


# -- contents --------------------------------------------------------------------------------------


def _open(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    flags, _ = wire.OPEN_IN.unpack_from(body)
    fh, same = view.own.open(inode, flags, caller)
    if view.through is not None:
        node = view.known(inode)
        number = view.through.opened(node, view.tree, flags)
        if number:
            return wire.OPEN_OUT.pack(fh, wire.FOPEN_PASSTHROUGH, number)
        if node.passed:
            node.passed = same = False
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


def _fsync(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes | Later:
    return _synced(view.own.fsync, body)


def _fsyncdir(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes | Later:
    return _synced(view.own.fsyncdir, body)


def _synced(method: Callable[[int, bool], Callable[[], None]], body: memoryview) -> bytes | Later:
    fh, flags, _ = wire.FSYNC_IN.unpack_from(body)
    work = method(fh, bool(flags & wire.FSYNC_FDATASYNC))
    return _EMPTY if work is nothing else Later(work)


def _release(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    fh: int = wire.FH_IN.unpack_from(body)[0]
    node = view.known(fh >> 1)
    view.own.release(fh)
    if node.through and not node.opens and view.through is not None:
        view.through.closed(node, view.tree)
        view.forget_attributes(node.id)
    return _EMPTY


# -- directories -----------------------------------------------------------------------------------


def _opendir(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    number = view.own.opendir(inode, caller)
    listing = view.listings[number]
    flags = wire.FOPEN_CACHE_DIR
    if view.as_listed(listing.node):
        flags |= wire.FOPEN_KEEP_CACHE
    return wire.OPEN_OUT.pack(number, flags, 0)


def _releasedir(view: Direct, inode: int, body: memoryview, caller: Caller) -> bytes:
    view.own.releasedir(wire.FH_IN.unpack_from(body)[0])
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
    wire.FSYNC: _fsync,
    wire.RELEASE: _release,
    wire.OPENDIR: _opendir,
    wire.RELEASEDIR: _releasedir,
    wire.FSYNCDIR: _fsyncdir,
    wire.READDIRPLUS: _readdirplus,
}
