"""Which changes a commit of some paths takes: those at and below them, and what they need.

Needed are the directories that the session made above a selected entry.  A selection that
cannot stand alone is a Usage error that says what is missing: half of a rename, some names of a
hard-linked file, an entry below a directory that is itself renamed or replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

from goexfs.errors import NotFound, Usage
from goexfs.names import display
from goexfsd.commit.places import Place, Places, ancestors, covers
from goexfsd.layer.changes import Change


def choose(changes: list[Change], paths: Sequence[Place], places: Places) -> list[Change]:
    """The selected changes in the order of ``changes``; all of them if ``paths`` is empty."""
    if not paths:
        return changes
    for root, path in paths:
        if not any(_touches(change, root, path) for change in changes):
            raise NotFound(f"no change at {_shown(path)}", hint="goexfs diff lists the changes")
    chosen = {index for index, change in enumerate(changes) if _covered(change, paths)}
    chosen |= _made_parents(changes, chosen)
    _whole_renames(changes, chosen, paths)
    _whole_parents(changes, chosen, places)
    _whole_links(changes, chosen)
    return [change for index, change in enumerate(changes) if index in chosen]


def _covers(paths: Sequence[Place], root: int, path: bytes) -> bool:
    return any(root == index and covers(above, path) for index, above in paths)


def _covered(change: Change, paths: Sequence[Place]) -> bool:
    return _covers(paths, change.root, change.path)


def _touches(change: Change, root: int, path: bytes) -> bool:
    if change.root != root:
        return False
    return covers(path, change.path) or (
        change.old_path is not None and covers(path, change.old_path)
    )


def _made_parents(changes: list[Change], chosen: set[int]) -> set[int]:
    made = {
        (change.root, change.path): index
        for index, change in enumerate(changes)
        if change.kind == "created" and change.type == "dir"
    }
    needed = set()
    for index in chosen:
        change = changes[index]
        if change.kind == "deleted":
            continue
        for above in ancestors(change.path):
            parent = made.get((change.root, above))
            if parent is not None:
                needed.add(parent)
    return needed


def _whole_renames(changes: list[Change], chosen: set[int], paths: Sequence[Place]) -> None:
    for index, change in enumerate(changes):
        if change.kind != "renamed" or change.old_path is None:
            continue
        if (index in chosen) != _covers(paths, change.root, change.old_path):
            old, new = _shown(change.old_path), _shown(change.path)
            raise Usage(
                f"{old} was renamed to {new}: one cannot be committed without the other",
                hint="name both, or a directory that holds both",
            )


def _whole_parents(changes: list[Change], chosen: set[int], places: Places) -> None:
    taken = {(changes[i].root, changes[i].path) for i in chosen if changes[i].kind != "deleted"}
    for index in chosen:
        change = changes[index]
        if change.kind == "deleted":
            continue
        for above in ancestors(change.path):
            parent = places.at.get((change.root, above))
            if parent is None or (change.root, above) in taken:
                continue
            if parent.kind in ("renamed", "retyped"):
                what = "renamed" if parent.kind == "renamed" else "made in place of something else"
                raise Usage(
                    f"{_shown(change.path)} lies in {_shown(above)}, which was {what}",
                    hint=f"name {_shown(above)} as well",
                )


def _whole_links(changes: list[Change], chosen: set[int]) -> None:
    groups: dict[tuple[int, int], list[int]] = {}
    for index, change in enumerate(changes):
        if change.kind != "deleted" and change.type != "dir" and change.upper_ino:
            groups.setdefault((change.root, change.upper_ino), []).append(index)
    for index, change in enumerate(changes):
        if change.source is None and change.kind != "deleted" and change.old_st is not None:
            # The layer knows this name only through the base's inode: what becomes of that
            # inode's other names cannot be decided before this.
            same = [i for i, other in enumerate(changes) if _same_file(change, other)]
            groups[change.root, -1 - index] = same
    for members in groups.values():
        left = [index for index in members if index not in chosen]
        if left and len(left) < len(members):
            one = next(index for index in members if index in chosen)
            raise Usage(
                f"{_shown(changes[one].path)} and {_shown(changes[left[0]].path)} are names of "
                "one file: one cannot be committed without the other",
                hint="name all of them, or a directory that holds them",
            )


def _same_file(one: Change, other: Change) -> bool:
    if one.root != other.root or one.old_st is None or other.old_st is None:
        return False
    was, st = one.old_st, other.old_st
    return (was.st_dev, was.st_ino) == (st.st_dev, st.st_ino)


def _shown(path: bytes) -> str:
    return display(path) or "."
