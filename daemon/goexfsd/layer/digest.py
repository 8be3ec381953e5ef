"""A digest of a change list, so that what was seen and what was committed can be told apart.

It covers what a reviewer is shown of each change, and the size and time of its file: the same
list of the same layer has the same digest, whoever asks.  Not the bytes of files; of those a
checkpoint's number says which they are.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable

from goexfsd.layer.changes import Change


def digest(changes: Iterable[Change]) -> str:
    """SHA-256 in hexadecimal; that of no changes is ``EMPTY``."""
    sha = hashlib.sha256()
    for change in changes:
        sha.update(b"%d\0" % change.root)
        aspects = ",".join(sorted(change.aspects))
        sha.update(f"{change.kind}\0{change.type}\0{aspects}\0".encode())
        sha.update(b"%s\0%s\0" % (change.path, b"" if change.old_path is None else change.old_path))
        st = change.st
        if st is not None:
            plain = stat.S_ISREG(st.st_mode)
            size, mtime = (st.st_size, st.st_mtime_ns) if plain else (0, 0)
            sha.update(b"%o %d %d %d %d" % (st.st_mode, st.st_uid, st.st_gid, size, mtime))
        sha.update(b"\0")
    return sha.hexdigest()


EMPTY = hashlib.sha256().hexdigest()
