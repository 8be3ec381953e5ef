"""Which changes a commit of a selection takes: those that it means, and what they need.

Needed are the directories that the session made above a selected entry.  A deleted directory of
which something stays is not taken; a rename is left where either of its ends is excluded.  A
selection that cannot stand alone is a Usage error that says what is missing: half of a rename,
some names of a hard-linked file, an entry below a directory that is itself renamed or replaced,
an entry at a name that something else has not left.
"""

from __future__ import annotations

from collections.abc import Iterable

from goexfs.errors import NotFound, Usage
from goexfs.names import display
from goexfsd.commit.places import Place, Places, ancestors
from goexfsd.layer.changes import Change
from goexfsd.layer.selection import Chosen, Selection, places_of


def choose(changes: list[Change], selection: Selection, places: Places) -> list[Change]:
    """The selected changes in the order of ``changes``; all of them if it selects nothing."""
    if not selection:
        return changes
    listed = places_of(changes)
    wanted = selection.among(listed)
    idle = selection.idle(listed)
    if idle is not None:
        raise NotFound(f"no change at {idle}", hint="goexfs diff lists the changes")
    chosen = {
        index
        for index, change in enumerate(changes)
        if wanted.takes(change.root, change.path) and not wanted.leaves(change)
    }
    _whole_renames(changes, chosen, wanted)
    return complete(changes, chosen, places)


def complete(changes: list[Change], chosen: set[int], places: Places) -> list[Change]:
    """The changes at ``chosen`` with what they need; Usage where that is more than may be."""
    chosen = chosen | _made_parents(changes, chosen)
    chosen -= _kept_directories(changes, chosen)
    _free_names(changes, chosen, places)
    _whole_parents(changes, chosen, places)
    _whole_links(changes, chosen)
    return [change for index, change in enumerate(changes) if index in chosen]


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


def _whole_renames(changes: list[Change], chosen: set[int], wanted: Chosen) -> None:
    for index, change in enumerate(changes):
        if change.kind != "renamed" or change.old_path is None or wanted.leaves(change):
            continue
        if (index in chosen) != wanted.takes(change.root, change.old_path):
            old, new = _shown(change.old_path), _shown(change.path)
            raise Usage(
                f"{old} was renamed to {new}: one cannot be committed without the other",
                hint="name both, or a directory that holds both",
            )


def _staying(changes: list[Change], chosen: set[int]) -> Iterable[tuple[Place, Change]]:
    """Base entries that are gone from the view, and are not to go from the base now."""
    for index, change in enumerate(changes):
        if index in chosen:
            continue
        if change.kind == "deleted":
            yield (change.root, change.path), change
        elif change.old_path is not None:
            yield (change.root, change.old_path), change


def _kept_directories(changes: list[Change], chosen: set[int]) -> set[int]:
    """Deleted directories in which something stays."""
    gone = {
        (changes[index].root, changes[index].path): index
        for index in chosen
        if changes[index].kind == "deleted" and changes[index].type == "dir"
    }
    found = set()
    for (root, path), _ in _staying(changes, chosen):
        found |= {gone[root, above] for above in ancestors(path) if (root, above) in gone}
    return found


def _free_names(changes: list[Change], chosen: set[int], places: Places) -> None:
    """No chosen entry may come to a name, or in place of a directory, that is not left yet."""
    taken: dict[Place, Change] = {}
    for index in chosen:
        change = changes[index]
        if change.kind in ("created", "renamed", "retyped"):
            slot = places.slot_of(change.root, change.path)
            if slot is not None:
                taken[change.root, slot] = change
    for (root, path), stays in _staying(changes, chosen):
        for above in (path, *ancestors(path)):
            comes = taken.get((root, above))
            if comes is not None and (above == path or comes.kind == "retyped"):
                what = "was renamed" if stays.kind == "renamed" else "was deleted"
                raise Usage(
                    f"{_shown(comes.path)} comes in place of {_shown(path)}, which {what}:"
                    " one cannot be committed without the other",
                    hint=f"name {_shown(path)} as well",
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
