"""A faithful copy of one entry: bytes with their holes, attributes in the one right order.

Data are shared where the file system can (reflink), else copied extent by extent.  Attributes
go on as: owner (which clears set-id bits and capabilities), extended attributes and ACLs (an
ACL rewrites the group bits), mode, capabilities, times.  What the owner of the session may not
set is returned as a loss, never passed over in silence; set-id bits are dropped with it.

It knows nothing of plans; files are given as descriptors (O_PATH ones for attributes).
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from goexfsd import kernel
from goexfsd.layer.format import unescape_xattr

_CHUNK = 1 << 20
SMALL = 32 << 10
"""Files of up to so many bytes, without holes, are read and written whole."""
_NO_REFLINK = (
    errno.EXDEV,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ENOTTY,
    errno.EPERM,
    errno.ETXTBSY,
)
_NO_RANGE = (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)
_CAPABILITY = b"security.capability"
_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EINVAL)
_SET_ID = stat.S_ISUID | stat.S_ISGID

DATA = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

Xattrs = dict[bytes, bytes]


@dataclass(slots=True)
class Meta:
    """Everything about an entry but its bytes and names; never changed once made."""

    mode: int
    """With the type bits."""
    uid: int
    gid: int
    rdev: int
    size: int
    atime_ns: int
    mtime_ns: int
    xattrs: Xattrs
    target: bytes | None = None
    """Of a symlink."""

    @classmethod
    def of(cls, st: os.stat_result, xattrs: Xattrs, target: bytes | None = None) -> Meta:
        return cls(
            st.st_mode,
            st.st_uid,
            st.st_gid,
            st.st_rdev,
            st.st_size,
            st.st_atime_ns,
            st.st_mtime_ns,
            xattrs,
            target,
        )

    def to_json(self) -> list[Any]:
        """For a record: the fields in their order."""
        numbers = [self.mode, self.uid, self.gid, self.rdev, self.size]
        xattrs = {text(name): text(value) for name, value in self.xattrs.items()}
        target = None if self.target is None else text(self.target)
        return [*numbers, self.atime_ns, self.mtime_ns, xattrs, target]

    @classmethod
    def from_json(cls, value: list[Any]) -> Meta:
        *numbers, xattrs, target = value
        found = {raw(name): raw(data) for name, data in xattrs.items()} if xattrs else {}
        mode, uid, gid, rdev, size, atime_ns, mtime_ns = numbers
        end = None if target is None else raw(target)
        return cls(mode, uid, gid, rdev, size, atime_ns, mtime_ns, found, end)


def text(data: bytes) -> str:
    """Any bytes as base64 text."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def raw(data: str) -> bytes:
    """The bytes of ``text``."""
    return binascii.a2b_base64(data, strict_mode=True)


def proc(fd: int) -> str:
    """A path to exactly what ``fd`` holds, for calls that take no descriptor."""
    return f"/proc/self/fd/{fd}"


def xattrs_of(fd: int, *, opened: bool = False) -> Xattrs:
    """Extended attributes behind a handle; security labels of the system's own are left out.

    ``opened``: the descriptor is no mere handle (O_PATH), and can be asked itself.
    """
    where = fd if opened else proc(fd)
    try:
        names = os.listxattr(where)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found: Xattrs = {}
    for name in map(os.fsencode, names):
        if name.startswith(b"security.") and name != _CAPABILITY:
            continue
        try:
            found[name] = os.getxattr(where, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EACCES):
                raise
    return found


def layer_xattrs_of(fd: int, *, opened: bool = False) -> Xattrs:
    """As ``xattrs_of``, of an upper entry: the user's names, without the layer's markers."""
    stored = xattrs_of(fd, opened=opened)
    named = ((unescape_xattr(name), value) for name, value in stored.items())
    return {name: value for name, value in named if name is not None}


def read_meta(dir_fd: int, name: bytes) -> tuple[Meta, os.stat_result]:
    """What ``name`` in ``dir_fd`` is; no symlink is followed, nothing is opened for reading."""
    fd = kernel.open_beneath(dir_fd, name, HANDLE)
    try:
        st = os.fstat(fd)
        target = os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(st.st_mode) else None
        return Meta.of(st, xattrs_of(fd), target), st
    finally:
        os.close(fd)


def small_data(src: int, st: os.stat_result) -> bytes | None:
    """All bytes of a small regular file without holes; None of any other."""
    if st.st_size > SMALL or st.st_blocks * 512 < st.st_size:
        return None
    data = os.pread(src, SMALL + 1, 0)
    return data if len(data) == st.st_size else None


def copy_new(src: int, dst: int, st: os.stat_result) -> None:
    """As ``copy_data``, to a new and empty file; ``st`` is of ``src``."""
    data = small_data(src, st)
    if data is None:
        copy_data(src, dst, st.st_size)
    else:
        write_at(dst, data, 0)


def write_at(dst: int, data: bytes | memoryview, at: int) -> None:
    """Write all of ``data`` there."""
    done = 0
    while done < len(data):
        done += os.pwrite(dst, data[done:] if done else data, at + done)


def copy_data(src: int, dst: int, size: int) -> None:
    """Make ``dst`` (a regular file, any content) hold the bytes and holes of ``src``."""
    os.ftruncate(dst, 0)
    if size == 0:
        return
    if not reflink(src, dst):
        os.ftruncate(dst, size)
        for start, end in extents(src, size):
            _copy_range(src, dst, start, end)
    if os.fstat(dst).st_size != size:
        os.ftruncate(dst, size)


def reflink(src: int, dst: int) -> bool:
    """Share all data of ``src``; False if these two cannot."""
    try:
        kernel.ficlone(dst, src)
    except OSError as error:
        if error.errno not in _NO_REFLINK:
            raise
        return False
    return True


def extents(src: int, size: int) -> Iterator[tuple[int, int]]:
    """Where (start, end) there are data in the first ``size`` bytes of a file."""
    at = 0
    while at < size:
        try:
            start = os.lseek(src, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        at = min(os.lseek(src, start, os.SEEK_HOLE), size)
        if start < at:
            yield start, at


def _copy_range(src: int, dst: int, start: int, end: int) -> None:
    try:
        while start < end:
            count = os.copy_file_range(src, dst, end - start, start, start)
            if count == 0:
                return  # the source ended early: the rest stays a hole
            start += count
    except OSError as error:
        if error.errno not in _NO_RANGE:
            raise
        _copy_bytes(src, dst, start, end)


def _copy_bytes(src: int, dst: int, start: int, end: int) -> None:
    while start < end:
        data = os.pread(src, min(_CHUNK, end - start), start)
        if not data:
            return
        write_at(dst, data, start)
        start += len(data)


def dress_new(fd: int, meta: Meta) -> tuple[list[str], os.stat_result]:
    """As ``put_meta``, of a file that was just made with the right mode, has no attributes yet,
    and is open; and what it is then."""
    with contextlib.suppress(PermissionError):
        os.utime(fd, ns=(meta.atime_ns, meta.mtime_ns))
    now = os.fstat(fd)
    owned = now.st_uid == meta.uid and now.st_gid == meta.gid
    timed = now.st_mtime_ns == meta.mtime_ns
    if owned and timed and now.st_mode == meta.mode and not meta.xattrs:
        return [], now
    return put_meta(fd, meta), os.fstat(fd)


def put_meta(fd: int, meta: Meta, *, times: bool = True) -> list[str]:
    """Give what the handle ``fd`` holds these attributes; returns what could not be given."""
    now = os.fstat(fd)
    link = stat.S_ISLNK(now.st_mode)
    lost = _put_owner(fd, meta, now)
    mode = stat.S_IMODE(meta.mode) & ~(_SET_ID if lost else 0)
    wanted = {k: v for k, v in meta.xattrs.items() if k != _CAPABILITY}
    lost += _put_xattrs(fd, wanted)
    if not link and stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        lost += _try("mode", lambda: os.chmod(proc(fd), mode))
    lost += _put_capability(fd, meta.xattrs.get(_CAPABILITY))
    if times:
        lost += put_times(fd, meta.atime_ns, meta.mtime_ns)
    return lost


def put_times(fd: int, atime_ns: int, mtime_ns: int) -> list[str]:
    """Set the times behind a handle, if they differ."""
    if os.fstat(fd).st_mtime_ns == mtime_ns:
        return []
    return _try("times", lambda: os.utime(proc(fd), ns=(atime_ns, mtime_ns)))


def _put_owner(fd: int, meta: Meta, now: os.stat_result) -> list[str]:
    lost = []
    if now.st_gid != meta.gid:
        lost += _try("group", lambda: os.chown(proc(fd), -1, meta.gid))
    if now.st_uid != meta.uid:
        lost += _try("owner", lambda: os.chown(proc(fd), meta.uid, -1))
    return lost


def _put_xattrs(fd: int, wanted: Xattrs) -> list[str]:
    lost: list[str] = []
    have = xattrs_of(fd)
    for name in have.keys() - wanted.keys() - {_CAPABILITY}:
        remove = partial(os.removexattr, proc(fd), name)
        lost += _try(f"xattr {os.fsdecode(name)}", remove)
    for name, value in wanted.items():
        if have.get(name) != value:
            lost += _put_xattr(fd, name, value)
    return lost


def _put_capability(fd: int, value: bytes | None) -> list[str]:
    have = xattrs_of(fd).get(_CAPABILITY)
    if value == have:
        return []
    if value is None:
        return _try("capabilities", lambda: os.removexattr(proc(fd), _CAPABILITY))
    return _put_xattr(fd, _CAPABILITY, value)


def _put_xattr(fd: int, name: bytes, value: bytes) -> list[str]:
    what = "acl" if name in _ACLS else f"xattr {os.fsdecode(name)}"
    return _try(what, lambda: os.setxattr(proc(fd), name, value))


def _try(what: str, call: Callable[[], None]) -> list[str]:
    try:
        call()
    except OSError as error:
        if error.errno in _REFUSED:
            return [what]
        raise
    return []
