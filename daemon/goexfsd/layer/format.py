"""The layer's names on disk: the kernel overlayfs format in its ``user.`` (userxattr) dialect.

A layer is one btrfs subvolume::

    upper/<root name>/...   the upper tree of each root, mirrored; owned by the session's owner
    work/                   copy-up is built here under a unique name and renamed into place
    index/                  one hard link for each copied-up base file that had several names
    origins                 append-only log: what the base looked like when first changed

* whiteout: character device 0/0 in ``upper`` = the base entry of that name is gone;
* opaque directory: ``user.overlay.opaque`` = ``y``: nothing of the base shows through.  Every
  directory that the session *creates* is opaque; one that was copied up is not;
* renamed directory: ``user.overlay.redirect`` = ``/path/in/the/base/root``: it shows that base
  directory.  Below it, names map to the base below the redirect;
* an extended attribute ``user.overlay.X`` of the *user's* is stored as
  ``user.overlay.overlay.X`` (as the kernel escapes it), so nothing a script writes is a marker.
  A script's own ``mknod c 0 0`` is refused.

Only this room knows these names.
"""

from __future__ import annotations

import os
import stat
import struct

UPPER = b"upper"
WORK = b"work"
INDEX = b"index"
ORIGINS = b"origins"

ACCESS_ACL = b"system.posix_acl_access"

OPAQUE = b"user.overlay.opaque"
REDIRECT = b"user.overlay.redirect"
MARKERS = b"user.overlay."
ESCAPED = b"user.overlay.overlay."

WHITEOUT_RDEV = 0


_ACL_HEAD = 4
_ACL_ENTRY = struct.Struct("<HHI")  # tag, permissions, id
_ACL_USER_OBJ = 0x01


def owner_needs(mode: int) -> int:
    """The permission bits that the layer's owner keeps on disk on an entry of this type."""
    if stat.S_ISDIR(mode):
        return 0o700
    return 0o600 if stat.S_ISREG(mode) else 0


def acl_with_mode(acl: bytes, mode: int) -> bytes:
    """An access ACL (the value of its attribute) with the owner's permissions of ``mode``."""
    found = bytearray(acl)
    for at in range(_ACL_HEAD, len(acl) - _ACL_ENTRY.size + 1, _ACL_ENTRY.size):
        tag, _, ident = _ACL_ENTRY.unpack_from(found, at)
        if tag == _ACL_USER_OBJ:
            _ACL_ENTRY.pack_into(found, at, tag, mode >> 6 & 7, ident)
    return bytes(found)


def is_whiteout(st: os.stat_result) -> bool:
    """Whether an upper entry stands for "deleted"."""
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == WHITEOUT_RDEV


def escape_xattr(name: bytes) -> bytes:
    """The stored name of a user's extended attribute."""
    if name.startswith(MARKERS):
        return ESCAPED + name[len(MARKERS) :]
    return name


def unescape_xattr(stored: bytes) -> bytes | None:
    """The user's name of a stored extended attribute; None for a marker of ours."""
    if stored.startswith(ESCAPED):
        return MARKERS + stored[len(ESCAPED) :]
    if stored.startswith(MARKERS):
        return None
    return stored
