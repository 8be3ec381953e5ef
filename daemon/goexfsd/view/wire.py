"""The kernel's FUSE protocol: the messages that the view reads and writes itself, as structs.

Names and layouts are those of ``linux/fuse.h`` (protocol 7.31 and later, little-endian as the
machine; every field is naturally aligned, so the structs have no padding but their own).  A
request is ``IN`` and its body, an answer ``OUT`` and its body.

It is pure: no descriptor, no node.
"""

from __future__ import annotations

import struct

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK = 8, 9, 10, 11, 12, 13
OPEN, READ, WRITE, RELEASE, FSYNC = 14, 15, 16, 18, 20
GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT = 22, 23, 24, 25, 26
OPENDIR, RELEASEDIR, FSYNCDIR, CREATE, INTERRUPT, IOCTL = 27, 29, 30, 35, 36, 39
BATCH_FORGET, FALLOCATE, READDIRPLUS, RENAME2, LSEEK = 42, 43, 44, 45, 46
COPY_FILE_RANGE, TMPFILE = 47, 51

IN = struct.Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding"""
OUT = struct.Struct("=IiQ")
"""len, error (a negative errno), unique; a notification has unique 0 and its code for error"""
BODY = IN.size

_ATTR = "QQQQQQIIIIIIIIII"
_ENTRY_HEAD = "=QQQQII"
_ATTR_HEAD = "=QII"
ATTR = struct.Struct("=" + _ATTR)
ENTRY_HEAD = struct.Struct(_ENTRY_HEAD)
"""``entry_out`` without its attributes"""
ATTR_HEAD = struct.Struct(_ATTR_HEAD)
"""``attr_out`` without its attributes"""
ENTRY_OUT = struct.Struct(_ENTRY_HEAD + _ATTR)
"""nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, then ino, size,
blocks, atime, mtime, ctime, the nanoseconds of the three, mode, nlink, uid, gid, rdev, blksize,
flags"""
ATTR_OUT = struct.Struct(_ATTR_HEAD + _ATTR)
"""attr_valid, attr_valid_nsec, padding, then as above"""
DIRENT = struct.Struct("=QQII")
"""ino, offset of what follows, length of the name, type"""

SETATTR_IN = struct.Struct("=IIQQQQQQIIIIIIII")
"""valid, padding, fh, size, lock_owner, atime, mtime, ctime, three nanoseconds, mode, unused,
uid, gid, unused"""
CREATE_IN = struct.Struct("=IIII")
"""flags, mode, umask, open_flags"""
MKNOD_IN = struct.Struct("=IIII")
"""mode, rdev, umask, padding"""
MKDIR_IN = struct.Struct("=II")
"""mode, umask"""
RENAME_IN = struct.Struct("=Q")
RENAME2_IN = struct.Struct("=QII")
"""newdir, flags, padding"""
LINK_IN = struct.Struct("=Q")
OPEN_IN = struct.Struct("=II")
"""flags, open_flags"""
OPEN_OUT = struct.Struct("=QIi")
"""fh, open_flags, backing_id"""
READ_IN = struct.Struct("=QQIIQII")
"""fh, offset, size, read_flags, lock_owner, flags, padding"""
WRITE_IN = struct.Struct("=QQIIQII")
"""fh, offset, size, write_flags, lock_owner, flags, padding"""
WRITE_OUT = struct.Struct("=II")
FH_IN = struct.Struct("=Q")
"""How ``release_in`` begins"""
FSYNC_IN = struct.Struct("=QII")
"""fh, fsync_flags, padding"""
GETXATTR_IN = struct.Struct("=II")
GETXATTR_OUT = struct.Struct("=II")
FORGET_IN = struct.Struct("=Q")
BATCH_FORGET_IN = struct.Struct("=II")
FORGET_ONE = struct.Struct("=QQ")
"""nodeid, nlookup"""
FALLOCATE_IN = struct.Struct("=QQQII")
"""fh, offset, length, mode, padding"""
LSEEK_IN = struct.Struct("=QQII")
"""fh, offset, whence, padding"""
LSEEK_OUT = struct.Struct("=Q")
COPY_FILE_RANGE_IN = struct.Struct("=QQQQQQQ")
"""fh_in, off_in, nodeid_out, fh_out, off_out, len, flags"""
INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
"""The handshake's answer: major, minor, max_readahead, flags, max_background,
congestion_threshold, max_write, time_gran, max_pages, map_alignment, flags2, max_stack_depth,
and what we do not set"""

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE = 1, 2, 4, 8
FATTR_ATIME, FATTR_MTIME, FATTR_ATIME_NOW, FATTR_MTIME_NOW = 16, 32, 128, 256
WRITE_KILL_SUIDGID = 1 << 2
FSYNC_FDATASYNC = 1
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_CACHE_DIR = 1 << 3
FOPEN_PASSTHROUGH = 1 << 7
INIT_HANDLE_KILLPRIV_V2 = 1 << 28
INIT_EXT = 1 << 30
INIT_PASSTHROUGH = 1 << 37

_INVAL_INODE, _INVAL_ENTRY, _INC_EPOCH = 2, 3, 8
_INVAL_INODE_OUT = struct.Struct("=Qqq")
_INVAL_ENTRY_OUT = struct.Struct("=QII")


def absent(seconds: int) -> bytes:
    """The ``entry_out`` of a name that leads to nothing, which the kernel may rely on for so
    long."""
    return ENTRY_HEAD.pack(0, 0, seconds, 0, 0, 0) + bytes(ATTR.size)


def names(body: bytes) -> list[bytes]:
    """The names in a body that consists of them, each ended by a zero byte."""
    return body.split(b"\0")[:-1]


def inval_inode(inode: int, *, attr_only: bool = False) -> bytes:
    """A notification: forget the attributes of an inode, and its pages unless ``attr_only``."""
    return _notification(_INVAL_INODE, _INVAL_INODE_OUT.pack(inode, -1 if attr_only else 0, 0))


def inval_entry(parent: int, name: bytes) -> bytes:
    """A notification: look this name up again."""
    return _notification(_INVAL_ENTRY, _INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0")


def inc_epoch() -> bytes:
    """A notification: look every name up again (Linux 6.16)."""
    return _notification(_INC_EPOCH, b"")


def _notification(code: int, body: bytes) -> bytes:
    return OUT.pack(OUT.size + len(body), code, 0) + body
