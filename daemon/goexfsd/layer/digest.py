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
        aspects = ",".join(sorted(change.aspects)) if change.aspects else ""
        st = change.st
        shown = ""
        if st is not None:
            mode = st.st_mode
            plain = stat.S_ISREG(mode)
            size, mtime = (st.st_size, st.st_mtime_ns) if plain else (0, 0)
            shown = f"{mode:o} {st.st_uid} {st.st_gid} {size} {mtime}"
        words = f"{change.root}\0{change.kind}\0{change.type}\0{aspects}\0{shown}\0"
        sha.update(b"%s%s\0%s\0" % (words.encode(), change.path, change.old_path or b""))
    return sha.hexdigest()


EMPTY = hashlib.sha256().hexdigest()
