"""What to commit of a session whose base stood still, while the real one did not.

The session changed a snapshot of its roots; the commit goes to the roots as they are now.  The
change list against the roots (*now*) is what is planned and checked, as for any session.  Where
somebody else changed what the session did not, that list has differences that are none of the
session's: the one against the snapshot (*then*) tells them apart.

* A difference at a name where the session changed nothing is not its own, and left out.
* But a directory on the way to what it changed, which is no longer there, is: the check says so.
* And what lies in a directory that the session takes away would go with it: that stays in the
  list, where the check finds that the session never saw it.
* What the session changed and the roots show so already is done; but if the directory that it
  was in is no longer there, nobody can tell: that is added, and the check says so.

Pure but for the look at directories that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from goexfsd.commit.places import Place, ancestors, parent
from goexfsd.layer.changes import Change, in_order


def own(
    now: Sequence[Change], then: Sequence[Change], is_directory: Callable[[int, bytes], bool]
) -> list[Change]:
    """The changes of *now* that are the session's, and those of *then* that it cannot show."""
    shown, gone, emptied = _places(then)
    kept = [
        change
        for change in now
        if (change.root, change.path) in (gone if change.kind == "deleted" else shown)
        or (change.kind == "deleted" and _lay_in(change, emptied))
    ]
    kept += _needed(kept, now)
    have = {place for change in kept for place in _of(change)}
    lost = [
        change
        for change in then
        if not have & _of(change)
        and not is_directory(change.root, parent(change.old_path or change.path))
    ]
    return in_order([*kept, *lost])


def _needed(kept: Sequence[Change], now: Sequence[Change]) -> list[Change]:
    """Directories that the session only went through, and that are gone from the roots."""
    have = {(change.root, change.path) for change in kept if change.kind != "deleted"}
    above = {(root, each) for root, path in have for each in ancestors(path)} - have
    return [
        change
        for change in now
        if (change.root, change.path) in above and change.type == "dir" and change.origin
        if change.kind in ("created", "retyped")
    ]


def _places(changes: Sequence[Change]) -> tuple[set[Place], set[Place], set[Place]]:
    """Where something changed is; from where something went; directories that are no more."""
    shown = {(change.root, change.path) for change in changes if change.kind != "deleted"}
    gone = {(change.root, change.path) for change in changes if change.kind == "deleted"}
    gone |= {(c.root, c.old_path) for c in changes if c.old_path is not None}
    retyped = {(c.root, c.path) for c in changes if c.kind == "retyped" and c.old_type == "dir"}
    return shown, gone, gone | retyped


def _of(change: Change) -> set[Place]:
    places = {(change.root, change.path)}
    if change.old_path is not None:
        places.add((change.root, change.old_path))
    return places


def _lay_in(change: Change, emptied: set[Place]) -> bool:
    return any((change.root, above) in emptied for above in ancestors(change.path))
