"""Holds a change list to two full manifests.

The list says which base entries were deleted and which were renamed; that gives every base entry
that is left its place in the view.  From there on the manifests alone decide what must be in the
list: what is in the view and has no such entry was created, what differs in its place was
changed, and nothing else may be listed.  Renames themselves are checked against the inodes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from goexfsd.layer.changes import Change
from layering import Item


@dataclass
class Check:
    """Holds one change list to the two manifests."""

    base: dict[bytes, Item]
    view: dict[bytes, Item]
    changes: list[Change]
    inodes: Mapping[int, int]
    """Inode in the view -> the inode that it was in the base, if it was there."""
    timed: Collection[int]
    """Inodes in the view whose times were set."""
    was_timed: Collection[int]
    """The same in the base (which may be an earlier state of the view)."""
    origins: Collection[int]
    """The inodes of the base proper, that records may speak of."""

    def __post_init__(self) -> None:
        self.deleted = {c.path for c in self.changes if c.kind == "deleted"}
        self.renamed = {c.old_path: c for c in self.changes if c.kind == "renamed"}
        self.others = {c.path: c for c in self.changes if c.kind not in ("deleted", "renamed")}
        self.kept = {path: self.place(path) for path in self.base if path not in self.deleted}

    def place(self, path: bytes) -> bytes:
        """Where the list says that a base entry is now."""
        if path in self.renamed:
            return self.renamed[path].path
        if not path:
            return b""
        parent, _, name = path.rpartition(b"/")
        above = self.place(parent)
        return above + b"/" + name if above else name

    def run(self) -> None:
        assert len(self.changes) == len(self.deleted) + len(self.renamed) + len(self.others)
        order = [(c.kind != "deleted", c.path.split(b"/") if c.path else []) for c in self.changes]
        assert order == sorted(order)
        assert self.deleted <= set(self.base)
        assert len(set(self.kept.values())) == len(self.kept), "two base entries in one place"
        assert set(self.kept.values()) <= set(self.view), "a deletion is missing"
        created = {c.path for c in self.changes if c.kind == "created"}
        assert created == set(self.view) - set(self.kept.values())
        for old, new in self.kept.items():
            self.check_kept(old, new)
        self.check_renames(created)
        self.check_shown()

    def check_kept(self, old: bytes, new: bytes) -> None:
        before, after = self.base[old], self.view[new]
        change = self.renamed.get(old) or self.others.get(new)
        expected = self.aspects(old, new)
        if before.kind != after.kind:
            assert change is not None
            assert change.kind == "retyped"
        elif change is None:
            assert not expected or self.shown_elsewhere(new, expected), (old, new, expected)
        else:
            assert change.aspects == expected, (change, expected)
            assert change.kind == "renamed" or expected
            content = not expected.isdisjoint({"content", "target"})
            assert change.kind in ("renamed", "modified" if content else "metadata")

    def aspects(self, old: bytes, new: bytes) -> set[str]:
        before, after = self.base[old], self.view[new]
        found = set()
        if before.data != after.data:
            found.add("target" if stat.S_ISLNK(before.kind) else "content")
        if before.mode != after.mode:
            found.add("mode")
        if before.owner != after.owner:
            found.add("owner")
        if before.xattrs != after.xattrs:
            found.add("xattrs")
        timed = after.ino in self.timed or before.ino in self.was_timed
        if timed and before.mtime != after.mtime:
            found.add("times")
        if not stat.S_ISDIR(before.kind) and old not in self.renamed and self.linked(old, new):
            found.add("links")
        return found

    def linked(self, old: bytes, new: bytes) -> bool:
        before, after = self.base[old], self.view[new]
        if self.inodes.get(after.ino) == before.ino:
            return False
        if before.links == 1 and after.links == 1:
            return False
        then = {path for path, item in self.base.items() if item.ino == before.ino}
        now = {path for path, item in self.view.items() if item.ino == after.ino}
        return {self.kept.get(path) for path in then} != now

    def shown_elsewhere(self, new: bytes, expected: set[str]) -> bool:
        """Whether another name of the same file is listed with just this."""
        ino = self.view[new].ino
        return any(
            self.view[c.path].ino == ino and c.links > 1 and c.aspects == expected
            for c in self.changes
            if c.kind != "deleted"
        )

    def check_renames(self, created: set[bytes]) -> None:
        for old, change in self.renamed.items():
            assert old is not None
            inode = self.inodes.get(self.view[change.path].ino)
            assert inode == self.base[old].ino, "not the same file"
        gone = {self.base[path].ino for path in self.deleted}
        for path in created:
            inode = self.inodes.get(self.view[path].ino)
            assert inode is None or inode not in gone, (path, "was a rename")

    def check_shown(self) -> None:
        """What each change tells of its entries."""
        for change in self.changes:
            if change.st is not None:
                self.check_stat(change.st, self.view[change.path])
                assert change.links == self.view[change.path].links, change
            if change.kind == "deleted":
                assert change.old_st is not None
                self.check_stat(change.old_st, self.base[change.path])
            if change.origin is not None and change.kind != "created":
                assert change.origin.ino in self.origins, change

    def check_stat(self, found: os.stat_result, item: Item) -> None:
        assert stat.S_IFMT(found.st_mode) == item.kind
        assert (found.st_uid, found.st_gid) == item.owner
        if not stat.S_ISLNK(item.kind):
            assert stat.S_IMODE(found.st_mode) == item.mode
