"""Has the base moved under the session?  Every touched entry against what the session saw.

A file (or anything else that is no directory) must have the device, inode, size, mtime, ctime
and mode it had; a directory its device, inode, mode and owner.  Where the session saw nothing,
nothing may be; the directories on the way must be the same ones; nothing that is taken away may
be a mount point.  All conflicts are found, none stops the search, nothing is changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from goexfs.names import display, to_wire
from goexfsd import kernel
from goexfsd.commit.base import GONE, Base, type_of
from goexfsd.commit.places import Places, ancestors
from goexfsd.layer.changes import Change
from goexfsd.layer.origins import Identity
from goexfsd.layer.seen import Seen


@dataclass(frozen=True, slots=True)
class Conflict:
    """``protocol.ConflictInfo`` in process; ``path`` is the change's."""

    root: int
    path: bytes
    reason: str
    detail: str

    def to_wire(self, names: Sequence[str]) -> dict[str, str]:
        path = to_wire(self.path) if self.path else "."
        return {
            "root": names[self.root],
            "path": path,
            "reason": self.reason,
            "detail": self.detail,
        }


_WANTS = {
    "deleted": "deletes it",
    "created": "creates it",
    "modified": "modified it",
    "renamed": "renamed it",
    "retyped": "replaced it by something else",
    "metadata": "changed its attributes",
}


def check(
    changes: Iterable[Change], places: Places, seen: Mapping[int, Seen], base: Base
) -> list[Conflict]:
    """All conflicts of the chosen ``changes``; ``places`` is of the whole change list."""
    checker = _Checker(places, seen, base)
    found: list[Conflict] = []
    for change in changes:
        found += checker.change(change)
    return found


class _Checker:
    def __init__(self, places: Places, seen: Mapping[int, Seen], base: Base) -> None:
        self._places, self._seen, self._base = places, seen, base
        self._ways: dict[tuple[int, bytes], str | None] = {}

    def change(self, change: Change) -> list[Conflict]:
        found = []
        if change.kind == "deleted":
            found += self._entry(change, change.path, change.origin)
            found += self._still(change, change.path)
        elif change.kind == "renamed":
            assert change.old_path is not None
            found += self._entry(change, change.old_path, change.origin)
            found += self._still(change, change.old_path)
            if not found:
                found += self._target(change)
        else:
            path = self._places.slot_of(change.root, change.path)
            if path is not None:
                found += self._entry(change, path, change.origin)
                found += self._still(change, path)
        return found[:1]

    def _still(self, change: Change, path: bytes) -> list[Conflict]:
        """The entry must also be the one that the change list was made of.

        Somebody who swaps entries to and fro may have shown the list something else than what
        was there before, and is there again now: the list would then be of the wrong kind.
        """
        st, was = self._base.look(change.root, path), change.old_st
        if was is None:
            known = (change.root, path) in self._places.vacated
            same = st is None or known or change.kind != "created" or change.origin is None
        else:
            same = st is not None and _marks(st) == _marks(was)
        if same:
            return []
        return [_conflict(change, "replaced", "it was exchanged in the base just now")]

    def _target(self, change: Change) -> list[Conflict]:
        """Where a renamed entry arrives: what the session saw there, or nothing."""
        path = self._places.slot_of(change.root, change.path)
        if path is None or path == change.old_path:
            return []
        expected = self._seen[change.root].first.get(path)
        return self._entry(change, path, expected)

    def _entry(self, change: Change, path: bytes, origin: Identity | None) -> list[Conflict]:
        root = change.root
        blocked = self._way(root, path)
        if blocked is not None:
            return [_conflict(change, "parent", blocked)]
        st = self._base.look(root, path)
        if st is None:
            if origin is None:
                return []
            return [_conflict(change, "deleted", "it was deleted or moved away in the base")]
        origin = origin or self._shared(change, st)
        if origin is None:
            what = type_of(st.st_mode)
            detail = f"the base has a {what} here that the session never saw"
            return [_conflict(change, "created", detail)]
        reason, detail = differs(origin, st, self._base.root_devs[root])
        if reason:
            return [_conflict(change, reason, detail)]
        if _takes_away(change) and self._base.extra(root, path)[0] & kernel.ATTR_MOUNT_ROOT:
            return [_conflict(change, "blocked", "something is mounted on it now")]
        return []

    def _shared(self, change: Change, st: os.stat_result) -> Identity | None:
        """What the session saw of a file under another of its names."""
        copy = self._seen[change.root].copies.get(change.upper_ino)
        if copy is None or copy.identity.ino != st.st_ino or stat.S_ISDIR(st.st_mode):
            return None
        return copy.identity

    def _way(self, root: int, path: bytes) -> str | None:
        """What is wrong with the directories above ``path``, if anything is."""
        for above in reversed(ancestors(path)):
            key = (root, above)
            if key not in self._ways:
                self._ways[key] = self._directory(root, above)
            wrong = self._ways[key]
            if wrong is not None:
                return wrong
        return None

    def _directory(self, root: int, path: bytes) -> str | None:
        shown = display(path) or "."
        try:
            st = self._base.lstat(root, path)
        except OSError as error:
            if error.errno in GONE:
                return f"its directory {shown} is gone from the base"
            raise
        if not stat.S_ISDIR(st.st_mode):
            return f"its directory {shown} became a {type_of(st.st_mode)} in the base"
        origin = self._seen[root].first.get(path) if path else None
        if origin is None or not stat.S_ISDIR(origin.mode):
            return None
        now = Identity.of(st, self._base.root_devs[root])
        if (now.dev, now.ino) != (origin.dev, origin.ino):
            return f"its directory {shown} was replaced by another in the base"
        return None


def differs(origin: Identity, st: os.stat_result, root_dev: int) -> tuple[str, str]:
    """(reason, what happened), or two empty strings if ``st`` is still what the session saw."""
    return differs_from(origin, Identity.of(st, root_dev))


def differs_from(origin: Identity, now: Identity) -> tuple[str, str]:
    """``differs`` between two identities of one root."""
    if stat.S_IFMT(now.mode) != stat.S_IFMT(origin.mode):
        return "retyped", f"it became a {type_of(now.mode)} in the base"
    if (now.dev, now.ino) != (origin.dev, origin.ino):
        return "replaced", f"the {type_of(now.mode)} in the base was replaced by another"
    if stat.S_ISDIR(now.mode):
        if (now.mode, now.uid, now.gid) != (origin.mode, origin.uid, origin.gid):
            return "changed", "its mode or owner changed in the base"
        return "", ""
    if (now.size, now.mtime_ns) != (origin.size, origin.mtime_ns):
        return "changed", "its contents changed in the base"
    if (now.mode, now.ctime_ns) != (origin.mode, origin.ctime_ns):
        return "changed", "its attributes or its links changed in the base"
    return "", ""


def _marks(st: os.stat_result) -> tuple[int, ...]:
    changed = () if stat.S_ISDIR(st.st_mode) else (st.st_ctime_ns,)
    return (stat.S_IFMT(st.st_mode), st.st_ino, *changed)


def _takes_away(change: Change) -> bool:
    return change.kind in ("deleted", "renamed", "retyped", "modified")


def _conflict(change: Change, reason: str, happened: str) -> Conflict:
    return Conflict(
        change.root, change.path, reason, f"{happened}; the session {_WANTS[change.kind]}"
    )
