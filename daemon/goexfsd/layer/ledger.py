"""The origins log as the view needs it while it runs: what each upper inode is a copy of.

Every record goes through ``add``, at the mount (from the log) and later (as it is appended), so
that the two can never differ.  Keys of base entries are (root, device, inode) with real device
numbers; memory follows what the session changed, never the base.

It does not write: ``writer.py`` appends.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

from goexfsd.layer.origins import Identity, Kind, Record

Key = tuple[int, int, int]
"""A base entry: root index, st_dev, st_ino."""


class Ledger:
    """Indexes over the records of one layer."""

    __slots__ = (
        "copied",
        "copies",
        "covered",
        "hidden",
        "highest",
        "linked",
        "links",
        "modes",
        "owners",
        "root_devs",
        "seen",
        "timed",
    )

    def __init__(self, root_devs: Sequence[int], records: Iterable[Record]) -> None:
        self.root_devs = list(root_devs)
        self.copies: dict[int, Key] = {}
        """Upper inode -> the base entry that it is a copy of."""
        self.copied: dict[Key, int] = {}
        """The same the other way round."""
        self.owners: dict[int, tuple[int, int]] = {}
        """Upper inode -> uid and gid to show, where the disk could not be told."""
        self.modes: dict[int, int] = {}
        """Upper inode -> permission bits to show while those on disk are widened."""
        self.timed: set[int] = set()
        """Upper inodes whose times the user set."""
        self.links: dict[Key, int] = {}
        """Base files with several names -> how many they had when first touched."""
        self.linked: dict[Key, tuple[int, int, int]] = {}
        """The same -> size, mtime in ns and mode that they were copied up with."""
        self.covered: dict[Key, set[bytes]] = {}
        """Base files with several names -> base names that no longer show the base."""
        self.seen: set[int] = set()
        """Hashes of (root, base path) of all that the session saw and changed."""
        self.highest = 0
        """The highest upper inode that a record speaks of."""
        self.hidden: set[int] = set()
        """Hashes of (root, base path, identity) of all that HIDE records speak of."""
        for record in records:
            self.add(record)

    def key(self, record: Record) -> Key:
        """The base entry a record speaks of."""
        identity = record.identity
        return record.root, identity.dev or self.root_devs[record.root], identity.ino

    def add(self, record: Record) -> None:
        """Take one record; kinds that mean nothing to a view are passed over."""
        kind, ino, identity = record.kind, record.upper_ino, record.identity
        if ino > self.highest:
            self.highest = ino
        if kind is Kind.COPY or kind is Kind.HIDE or kind is Kind.ALIAS:
            key = self.key(record)
            self.seen.add(hash((record.root, record.path)))
            if kind is Kind.HIDE:
                self.hidden.add(hash((record.root, record.path, identity)))
            if kind is Kind.COPY:
                self.copies[ino] = key
                self.copied[key] = ino
            if identity.nlink > 1 and not stat.S_ISDIR(identity.mode):
                if kind is Kind.COPY:
                    self.linked[key] = (identity.size, identity.mtime_ns, identity.mode)
                self.links.setdefault(key, identity.nlink)
                self.covered.setdefault(key, set()).add(record.path)
        elif kind is Kind.MODE:
            if identity.mode:
                self.modes[ino] = identity.mode & 0o7777
            else:
                self.modes.pop(ino, None)
        elif kind is Kind.OWNER:
            self.owners[ino] = (identity.uid, identity.gid)
        elif kind is Kind.TIMES:
            self.timed.add(ino)

    def has_seen(self, root: int, path: bytes) -> bool:
        """Whether the session changed this base path at some time."""
        return hash((root, path)) in self.seen

    def has_hidden(self, root: int, path: bytes, identity: Identity) -> bool:
        """Whether there is a HIDE record of just this, so that another would say nothing."""
        return hash((root, path, identity)) in self.hidden

    def speaks_of(self, ino: int) -> bool:
        """Whether an upper inode has marks of its own, which ``forget`` would take away."""
        return ino in self.timed or ino in self.modes or ino in self.owners

    def forget(self, ino: int) -> None:
        """An upper inode is no more (its number is never used again)."""
        self.timed.discard(ino)
        self.modes.pop(ino, None)
        self.owners.pop(ino, None)

    def is_linked(self, key: Key, st: os.stat_result) -> bool:
        """Whether a base file is, by its size, time and mode, one that had several names when it
        was copied up."""
        return self.linked.get(key) == (st.st_size, st.st_mtime_ns, st.st_mode)

    def visible_base_names(self, key: Key) -> int:
        """How many names of a base file with several names still lead to it (or its copy)."""
        return self.links.get(key, 1) - len(self.covered.get(key, ()))
