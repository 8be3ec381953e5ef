"""Copy-up: one base entry built anew in the layer's work directory, data and metadata.

Data goes by reflink where both lie on one file system, else extent by extent (holes stay
holes).  What is built here is invisible until the caller renames it into place.  The base is
read through descriptors only, without touching its access times where the kernel allows.

It knows neither names nor merges: it gets an open base entry and makes a copy of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import replace

from goexfsd import kernel
from goexfsd.layer.format import ACCESS_ACL, escape_xattr, owner_needs
from goexfsd.layer.origins import NOTHING, Kind
from goexfsd.layer.writer import Layer, in_dir

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
CAPABILITY = b"security.capability"

Source = int | bytes

_CHUNK = 1 << 20
_NO_REFLINK = (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ETXTBSY)
_NO_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)
_NO_XATTR = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENODATA)


def open_base(name: bytes, dir_fd: int | None, flags: int = READ) -> int:
    """Open a base file or directory for reading, leaving its access time alone if we may."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return os.open(name, flags, dir_fd=dir_fd)


def reflink(src: int, dst: int) -> bool:
    """Share all data of ``src``; False if these two cannot."""
    try:
        kernel.ficlone(dst, src)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True


def copy_small(src: int, dst: int, length: int) -> bytes | None:
    """Copy all of a small file without holes to an empty one, and return its bytes; None if
    it became shorter meanwhile."""
    data = os.pread(src, length, 0)
    if len(data) != length or os.pwrite(dst, data, 0) != length:
        os.ftruncate(dst, 0)
        return None
    return data


def copy_data(src: int, dst: int, length: int) -> None:
    """Copy the first ``length`` bytes, holes as holes, to an empty file."""
    at = 0
    while at < length:
        start, end = _extent(src, at, length)
        if start >= length:
            break
        _copy_range(src, dst, start, end)
        at = end
    os.ftruncate(dst, length)


def _extent(fd: int, at: int, length: int) -> tuple[int, int]:
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        return start, min(length, os.lseek(fd, start, os.SEEK_HOLE))
    except OSError as error:
        if error.errno == errno.ENXIO:
            return length, length
        if error.errno == errno.EINVAL:
            return at, length
        raise


def _copy_range(src: int, dst: int, at: int, end: int) -> None:
    while at < end:
        try:
            done = os.copy_file_range(src, dst, end - at, at, at)
        except OSError as error:
            if error.errno not in _NO_RANGE:
                raise
            done = 0
        if done == 0:
            data = os.pread(src, min(_CHUNK, end - at), at)
            if not data:
                return  # it became shorter under our hands
            done = os.pwrite(dst, data, at)
        at += done


def build(layer: Layer, name: bytes, dir_fd: int, st: os.stat_result) -> bytes:
    """Build a copy of a base entry that is no regular file; returns its name in ``work``.

    A directory is made empty, and with the owner's rights: ``dress`` gives it its mode.
    """
    tmp = layer.unique()
    kind = stat.S_IFMT(st.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(tmp, 0o700, dir_fd=layer.work_fd)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=dir_fd), tmp, dir_fd=layer.work_fd)
    elif kind == stat.S_IFCHR and st.st_rdev == 0:
        raise PermissionError(errno.EPERM, "a whiteout in the base")
    else:
        os.mknod(tmp, kind | 0o600, st.st_rdev, dir_fd=layer.work_fd)
    return tmp


def is_plain(source: Source, st: os.stat_result, made: os.stat_result) -> bool:
    """Whether a copy that is ``made`` so far lacks only the times of the file ``source``."""
    if (made.st_mode, made.st_uid, made.st_gid) != (st.st_mode, st.st_uid, st.st_gid):
        return False
    return not _xattrs(source)


def _xattrs(source: Source) -> list[str]:
    """The names of all extended attributes that can be seen."""
    try:
        return os.listxattr(source, follow_symlinks=isinstance(source, int))
    except OSError as error:
        if error.errno in _NO_XATTR:
            return []
        raise


def dress(
    layer: Layer,
    root: int,
    source: Source,
    dir_fd: int,
    name: bytes,
    st: os.stat_result,
    made: os.stat_result | None = None,
) -> int:
    """Give the upper entry ``name`` the owner, xattrs, mode and times of the base entry
    ``source`` (an open file, or a path through a descriptor) with status ``st``; ``made`` is what
    it was made with, if that is known.  Returns its inode number.

    Whoever cannot chown gets an OWNER record; what its mode would keep from us, a MODE record.
    """
    path = in_dir(dir_fd, name)
    if made is None:
        made = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    same_owner = (made.st_uid, made.st_gid) == (st.st_uid, st.st_gid)
    if not same_owner:
        _own(layer, root, dir_fd, name, st, made)
    acl, capable = _copy_xattrs(source, path)
    if not stat.S_ISLNK(st.st_mode):
        mode = stat.S_IMODE(st.st_mode)
        if not same_owner or mode != stat.S_IMODE(made.st_mode):
            os.chmod(name, mode, dir_fd=dir_fd)
        if acl is not None:
            with contextlib.suppress(PermissionError):
                os.setxattr(path, ACCESS_ACL, acl, follow_symlinks=False)
        if acl is not None or owner_needs(st.st_mode) & ~mode:
            layer.stand(root, dir_fd, name)
    if capable:
        _copy_capability(source, path)
    os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=dir_fd, follow_symlinks=False)
    return made.st_ino


def _own(
    layer: Layer,
    root: int,
    dir_fd: int,
    name: bytes,
    st: os.stat_result,
    made: os.stat_result,
) -> None:
    uid = st.st_uid if st.st_uid != made.st_uid else -1
    try:
        os.chown(name, uid, st.st_gid, dir_fd=dir_fd, follow_symlinks=False)
        return
    except PermissionError:
        pass
    if uid != -1 and made.st_gid != st.st_gid:
        with contextlib.suppress(PermissionError):
            os.chown(name, -1, st.st_gid, dir_fd=dir_fd, follow_symlinks=False)
    shown = replace(NOTHING, uid=st.st_uid, gid=st.st_gid)
    layer.record(Kind.OWNER, root, made.st_ino, b"", shown)


def _copy_xattrs(source: Source, target: bytes) -> tuple[bytes | None, bool]:
    """Copy extended attributes, all but the access ACL (returned) and file capabilities (whether
    there are any is returned)."""
    acl, capable = None, False
    for text in _xattrs(source):
        name = os.fsencode(text)
        if name == CAPABILITY:
            capable = True
            continue
        try:
            value = os.getxattr(source, name, follow_symlinks=isinstance(source, int))
            if name == ACCESS_ACL:
                acl = value
                continue
            os.setxattr(target, escape_xattr(name), value, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_XATTR or name.startswith(b"user."):
                raise
    return acl, capable


def _copy_capability(source: Source, target: bytes) -> None:
    try:
        value = os.getxattr(source, CAPABILITY, follow_symlinks=isinstance(source, int))
    except OSError:
        return
    with contextlib.suppress(OSError):  # an ordinary user cannot hand them on
        os.setxattr(target, CAPABILITY, value, follow_symlinks=False)
