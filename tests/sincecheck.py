"""Holds the change list that the file system's generations lead to against the walk's."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import btrfsutil

from goexfsd.layer.changes import Change, Root, differences, open_views
from goexfsd.layer.since import Newer
from goexfsd.store.newer import newer


def between(
    old: Path, new: Path, roots: Sequence[Root], base: Path, *, asked: list[bool] | None
) -> list[Change]:
    """The changes from one layer to another; ``asked``: by generations, and whether that did."""

    def ask(also: list[int]) -> Newer | None:
        assert asked is not None
        found = newer(old, new, also)
        asked.append(found is not None)
        return None if found is None else Newer(found.changed, found.names)

    fds = [os.open(old, os.O_RDONLY), os.open(new, os.O_RDONLY), os.open(base, os.O_PATH)]
    try:
        how = None if asked is None else ask
        with open_views(fds[0], fds[1], roots, fds[2:], ask=how) as views:
            return [each.change for each in differences(views)]
    finally:
        for fd in fds:
            os.close(fd)


def plain(change: Change) -> tuple[object, ...]:
    """All that a change tells, but for the time it was last read."""
    return (
        change.kind,
        change.root,
        change.path,
        change.old_path,
        change.type,
        change.old_type,
        _stat(change.st),
        _stat(change.old_st),
        change.aspects,
        change.source,
        change.upper_ino,
        change.origin,
        change.links,
    )


def _stat(st: os.stat_result | None) -> tuple[object, ...] | None:
    if st is None:
        return None
    size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
    return (*st[:6], size, st.st_mtime_ns, st.st_ctime_ns, st.st_rdev)


@dataclass
class Kept:
    """Checkpoints of one layer, and what each came of."""

    layer: Path
    roots: Sequence[Root]
    base: Path
    snapshots: list[Path] = field(default_factory=list)
    told: int = 0
    """Comparisons that generations could tell of."""

    def keep(self) -> None:
        at = self.layer.parent / f"ckpt-{len(self.snapshots)}"
        btrfsutil.create_snapshot(str(self.layer), str(at), read_only=True)
        self.snapshots.append(at)

    def check(self) -> None:
        """Every pair, both ways round, and each against the live layer."""
        btrfsutil.sync(str(self.layer))
        sides = [*self.snapshots, self.layer]
        for one, old in enumerate(self.snapshots):
            for other, new in enumerate(sides):
                asked: list[bool] = []
                found = between(old, new, self.roots, self.base, asked=asked)
                self.told += sum(asked)
                walked = between(old, new, self.roots, self.base, asked=None)
                assert list(map(plain, found)) == list(map(plain, walked)), (one, other, asked)

    def drop(self) -> None:
        for path in (*self.snapshots, self.layer):
            btrfsutil.delete_subvolume(str(path))
