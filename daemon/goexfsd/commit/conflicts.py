"""Has the base moved under the session?  Every touched entry against what the session saw.

A file (or anything else that is no directory) must have the device, inode, size, mtime, ctime
and mode it had; a directory its device, inode, mode and owner.  Where the session saw nothing,
nothing may be; the directories on the way must be the same ones; nothing that is taken away may
be a mount point.  All conflicts are found, none stops the search, nothing is changed.

A conflict that was resolved is held to what the base was *then* (``Accepted``): whatever moves
again is a conflict again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from goexfs.names import display, to_wire
from goexfsd import kernel
from goexfsd.commit.base import GONE, Base, type_of
from goexfsd.commit.places import Place, Places, ancestors
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
    theirs: str = ""
    """What happened in the base, where ``detail`` is made of two halves."""
    mine: str = ""
    """What the session did."""
    choices: tuple[str, ...] = ()
    """Which resolutions there can be."""
    at: bytes = b""
    """The place in the base that is in conflict."""

    def to_wire(self, names: Sequence[str]) -> dict[str, object]:
        path = to_wire(self.path) if self.path else "."
        return {
            "root": names[self.root],
            "path": path,
            "reason": self.reason,
            "detail": self.detail,
            "theirs": self.theirs,
            "mine": self.mine,
            "choices": list(self.choices),
        }


@dataclass(slots=True)
class Accepted:
    """The base at the places of resolved conflicts, as it was when they were resolved."""

    entries: dict[Place, Identity | None] = field(default_factory=dict)
    """None: nothing was there."""
    ways: dict[Place, tuple[int, int] | None] = field(default_factory=dict)
    """Directories above them: device and inode."""


_ANY = ("mine", "theirs", "merge")
_THEIRS = ("theirs",)


def check(
    changes: Iterable[Change],
    places: Places,
    seen: Mapping[int, Seen],
    base: Base,
    accepted: Accepted | None = None,
) -> list[Conflict]:
    """All conflicts of the chosen ``changes``; ``places`` is of the whole change list."""
    checker = Checker(places, seen, base, accepted)
    found = (checker.change(change) for change in changes)
    return [conflict for conflict in found if conflict is not None]


class Checker:
    """Looks at one change after another."""

    def __init__(
        self,
        places: Places,
        seen: Mapping[int, Seen],
        base: Base,
        accepted: Accepted | None = None,
    ) -> None:
        self._places, self._seen, self._base = places, seen, base
        self.accepted = Accepted() if accepted is None else accepted
        self._ways: dict[Place, tuple[str, bool] | None] = {}
        """Directory -> what is wrong with it or one above it."""

    def change(self, change: Change) -> Conflict | None:
        """What stands against it, if anything does."""
        for path, origin in self.touched(change):
            found, st = self._entry(change, path, origin)
            if found is None and (change.kind != "renamed" or path == change.old_path):
                found = self._still(change, path, st)
            if found is not None:
                return found
        return None

    def touched(self, change: Change) -> list[tuple[bytes, Identity | None]]:
        """The base paths that a change touches, with what the session saw there."""
        if change.kind == "deleted":
            return [(change.path, change.origin)]
        path = self._places.slot_of(change.root, change.path)
        if change.kind != "renamed":
            return [] if path is None else [(path, change.origin)]
        assert change.old_path is not None
        found = [(change.old_path, change.origin)]
        if path is not None and path != change.old_path:
            found.append((path, self._seen[change.root].first.get(path)))
        return found

    def accept(self, change: Change) -> None:
        """From now on ``change`` is held to the base as it is at this moment."""
        root = change.root
        for path, _ in self.touched(change):
            st = self._base.look(root, path)
            dev = self._base.root_devs[root]
            self.accepted.entries[root, path] = None if st is None else Identity.of(st, dev)
            for above in ancestors(path):
                self.accepted.ways[root, above] = self._directory_now(root, above)
        self._ways.clear()

    def _directory_now(self, root: int, path: bytes) -> tuple[int, int] | None:
        st = self._base.look(root, path)
        return None if st is None or not stat.S_ISDIR(st.st_mode) else (st.st_dev, st.st_ino)

    def _still(self, change: Change, path: bytes, st: os.stat_result | None) -> Conflict | None:
        """The entry, ``st``, must also be the one that the change list was made of.

        Somebody who swaps entries to and fro may have shown the list something else than what
        was there before, and is there again now: the list would then be of the wrong kind.
        """
        was = change.old_st
        if st is was:  # it was not looked at anew
            return None
        if was is None:
            known = (change.root, path) in self._places.vacated
            same = st is None or known or change.kind != "created" or change.origin is None
        else:
            same = st is not None and _marks(st) == _marks(was)
        if same:
            return None
        return _conflict(change, path, "replaced", "it was exchanged in the base just now", ())

    def entry(self, change: Change, path: bytes, origin: Identity | None) -> Conflict | None:
        """What stands against it at one of the places that it touches."""
        return self._entry(change, path, origin)[0]

    def _entry(
        self, change: Change, path: bytes, origin: Identity | None
    ) -> tuple[Conflict | None, os.stat_result | None]:
        """The same, and what is there."""
        root = change.root
        wrong = self._way(root, path)
        if wrong is not None:
            sentence, there = wrong
            ways = _ANY[:2] if there else _THEIRS
            return _conflict(change, path, "parent", sentence, ways), None
        st = self._base.look(root, path)
        found = self._moved(change, path, origin, st)
        if found is not None or st is None or not _takes_away(change):
            return found, st
        if self._base.is_mounted(root, path):
            happened = "something is mounted on it now"
            found = _conflict(change, path, "blocked", happened, _THEIRS)
        return found, st

    def _moved(
        self, change: Change, path: bytes, origin: Identity | None, st: os.stat_result | None
    ) -> Conflict | None:
        """The entry is not what the session saw, or not what was accepted."""
        dev = self._base.root_devs[change.root]
        place = (change.root, path)
        if self.accepted.entries and place in self.accepted.entries:
            then = self.accepted.entries[place]
            now = None if st is None else Identity.of(st, dev)
            if then is now or (then is not None and now is not None and _alike(then, now)):
                return None
            happened = "it changed in the base once more, while the commit was prepared"
            return _conflict(change, path, "changed", happened, _ANY)
        if st is None:
            if origin is None:
                return None
            return _conflict(
                change, path, "deleted", "it was deleted or moved away in the base", _ANY[:2]
            )
        origin = origin or self.shared(change, st)
        if origin is not None and as_seen(origin, st, dev):
            return None
        if origin is None:
            what = type_of(st.st_mode)
            happened = f"the base has a {what} here that the session never saw"
            return _conflict(change, path, "created", happened, _ANY)
        reason, happened = differs(origin, st, dev)
        ways = _ANY[:2] if reason == "retyped" else _ANY
        return _conflict(change, path, reason, happened, ways) if reason else None

    def shared(self, change: Change, st: os.stat_result) -> Identity | None:
        """What the session saw of a file under another of its names."""
        copy = self._seen[change.root].copies.get(change.upper_ino)
        if copy is None or copy.identity.ino != st.st_ino or stat.S_ISDIR(st.st_mode):
            return None
        return copy.identity

    def _way(self, root: int, path: bytes) -> tuple[str, bool] | None:
        """What is wrong with the directories above ``path``, if anything is, and whether there
        is a directory all the same."""
        if not path:
            return None
        above = path.rpartition(b"/")[0]
        key = (root, above)
        if key not in self._ways:
            self._ways[key] = self._way(root, above) or self._directory(root, above)
        return self._ways[key]

    def _directory(self, root: int, path: bytes) -> tuple[str, bool] | None:
        shown = display(path) or "."
        try:
            st = self._base.lstat(root, path)
        except OSError as error:
            if error.errno in GONE:
                return f"its directory {shown} is gone from the base", False
            raise
        if not stat.S_ISDIR(st.st_mode):
            return f"its directory {shown} became a {type_of(st.st_mode)} in the base", False
        origin = self._seen[root].first.get(path) if path else None
        now = Identity.of(st, self._base.root_devs[root])
        accepted = self.accepted.ways.get((root, path))
        if accepted is not None:
            if accepted != (st.st_dev, st.st_ino):
                return f"its directory {shown} was replaced by another just now", True
            return None
        if origin is None or not stat.S_ISDIR(origin.mode):
            return None
        if (now.dev, now.ino) != (origin.dev, origin.ino):
            if self._base.extra(root, path)[0] & kernel.ATTR_MOUNT_ROOT:
                return f"its directory {shown} became a mount point", False
            return f"its directory {shown} was replaced by another in the base", True
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


def as_seen(origin: Identity, st: os.stat_result, root_dev: int) -> bool:
    """Whether ``differs`` has nothing to say, for what is no directory: the one case that is
    common."""
    return (
        st.st_ino == origin.ino
        and st.st_mtime_ns == origin.mtime_ns
        and st.st_ctime_ns == origin.ctime_ns
        and st.st_size == origin.size
        and st.st_mode == origin.mode
        and (0 if st.st_dev == root_dev else st.st_dev) == origin.dev
        and not stat.S_ISDIR(origin.mode)
    )


def _alike(then: Identity, now: Identity) -> bool:
    return not differs_from(then, now)[0]


def _marks(st: os.stat_result) -> tuple[int, ...]:
    changed = () if stat.S_ISDIR(st.st_mode) else (st.st_ctime_ns,)
    return (stat.S_IFMT(st.st_mode), st.st_ino, *changed)


def _takes_away(change: Change) -> bool:
    return change.kind in ("deleted", "renamed", "retyped", "modified")


def _conflict(
    change: Change, path: bytes, reason: str, happened: str, choices: tuple[str, ...]
) -> Conflict:
    did = f"the session {_did(change, path, reason)}"
    return Conflict(
        change.root, change.path, reason, f"{happened}; {did}", happened, did, choices, path
    )


def _did(change: Change, path: bytes, reason: str) -> str:
    """What the session did, in words; ``path`` is the place in the base that is in conflict."""
    if change.kind == "deleted":
        return "deletes it" if change.origin else "removed or made anew the directory it is in"
    if change.kind == "renamed":
        assert change.old_path is not None
        if path == change.old_path:
            return f"renamed it to {display(change.path)}"
        return f"renamed {display(change.old_path)} to it"
    if change.origin is None and reason == "created":
        return "creates it" if change.type == "file" else f"creates a {change.type} here"
    if change.kind == "created" and change.origin is not None:
        return "changed what is in it" if change.type == "dir" else "modified it"
    if change.kind == "retyped":
        return f"replaced it by a {change.type}"
    return {"created": "creates it", "modified": "modified it"}.get(
        change.kind, "changed its attributes"
    )
