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

UPPER = b"upper"
WORK = b"work"
INDEX = b"index"
ORIGINS = b"origins"

OPAQUE = b"user.overlay.opaque"
REDIRECT = b"user.overlay.redirect"
MARKERS = b"user.overlay."
ESCAPED = b"user.overlay.overlay."

WHITEOUT_RDEV = 0


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
