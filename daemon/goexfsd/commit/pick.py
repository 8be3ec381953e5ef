"""Which changes, and what of each, a patch names that was made by ``goexfs diff`` and then edited.

A section of the patch stands for what it says of a file: its bytes, the executable bit, its
coming, going or new name.  A note stands for what git cannot say: attributes, directories,
special files.  What has been taken out of the patch stays in the session.  Directories that come
or go with a file in them have no note and follow; so does all that lies in a renamed directory,
whose note alone counts.

Pure: no file is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from goexfs.errors import NotFound, Usage
from goexfs.names import display
from goexfsd.commit.places import Place, ancestors
from goexfsd.layer.changes import Change, Root
from goexfsd.layer.unpatch import Patch, Section, note_readings, place

Key = tuple[int, bytes, bool]
"""Root, path, whether it is a deletion: one change."""

_ASPECTS = (
    (re.compile(rb"mode [0-7]+, was [0-7]+"), "mode"),
    (re.compile(rb"owner \d+:\d+, was \d+:\d+"), "owner"),
    (re.compile(rb"another device number"), "device"),
    (re.compile(rb"extended attributes differ"), "xattrs"),
    (re.compile(rb"times were set"), "times"),
    (re.compile(rb"hard links differ"), "links"),
    (re.compile(rb"content of \d+ bytes is not in this patch"), "content"),
)
_COMES = re.compile(rb"created \w+|was a \w+, is a \w+|renamed \w+ from .*", re.DOTALL)
_GOES = re.compile(rb"deleted \w+")
_TOLD = re.compile(rb"(created as )?one of \d+ names of a file.*")
"""Says something of what another line stands for."""


@dataclass(slots=True)
class Wanted:
    """What is wanted of one change."""

    section: Section | None = None
    aspects: set[str] = field(default_factory=set)
    """Of those that the change has; ``content`` for a symlink's target, too."""
    whole: bool = False
    """There are no parts to it: something comes, goes, or becomes something else."""


def key(change: Change) -> Key:
    return change.root, change.path, change.kind == "deleted"


def pick(patch: Patch, changes: Sequence[Change], roots: Sequence[Root]) -> dict[Key, Wanted]:
    """What the patch names; NotFound for what is no change, Usage for half of something."""
    picker = _Picker(changes, roots)
    for line, note in patch.notes:
        picker.note(line, note)
    for section in patch.sections:
        picker.section(section)
    picker.follow()
    return picker.found


class _Picker:
    def __init__(self, changes: Sequence[Change], roots: Sequence[Root]) -> None:
        self._roots = roots
        self._changes = changes
        self._here = {(c.root, c.path): c for c in changes if c.kind != "deleted"}
        self._gone = {(c.root, c.path): c for c in changes if c.kind == "deleted"}
        self._went = {(c.root, c.old_path): c for c in changes if c.old_path is not None}
        self._named: set[Place] = set()
        """Places of sections."""
        self.found: dict[Key, Wanted] = {}

    def _want(self, change: Change) -> Wanted:
        return self.found.setdefault(key(change), Wanted())

    # -- notes ------------------------------------------------------------------------------

    def note(self, line: int, note: bytes) -> None:
        for name, said in note_readings(note):
            where = place(name, self._roots)
            if where is not None and self._noted(where, said):
                return
        raise NotFound(
            f"line {line} of the patch speaks of what is no change: {display(note[:80])}",
            hint="goexfs diff lists the changes",
        )

    def _noted(self, at: Place, said: bytes) -> bool:
        here, gone = self._here.get(at), self._gone.get(at)
        if _GOES.fullmatch(said) and gone is not None:
            self._want(gone).whole = True
            return True
        if _COMES.fullmatch(said) and here is not None:
            self._want(here).whole = here.kind != "renamed"
            return True
        for pattern, aspect in _ASPECTS:
            if pattern.fullmatch(said):
                change = gone if here is None else here
                if change is not None:
                    self._want(change).aspects.add(aspect)
                return change is not None
        return _TOLD.fullmatch(said) is not None and here is not None

    # -- sections -----------------------------------------------------------------------------

    def section(self, section: Section) -> None:
        shown = display(section.new)
        old, new = place(section.old, self._roots), place(section.new, self._roots)
        if old is None or new is None:
            raise NotFound(f"the patch names {shown}, which lies in no root of the session")
        self._named |= {old, new}
        if section.deleted:
            self._leaves(section, old)
            return
        change = self._here.get(new)
        if change is None:
            if not self._along(new):
                raise self._unknown(section, new)
            return
        if change.type not in ("file", "symlink"):
            raise Usage(f"the patch has a file at {shown}, the session a {change.type}")
        if section.renamed and (change.kind != "renamed" or change.old_path != old[1]):
            raise Usage(
                f"the patch renames {display(section.old)} to {shown}, the session does not"
            )
        wanted = self._want(change)
        wanted.section = section
        if change.kind == "created":
            wanted.whole = True
        if section.content:
            wanted.aspects.add("content")
        if section.mode:
            wanted.aspects.add("mode")

    def _leaves(self, section: Section, place: Place) -> None:
        gone = self._gone.get(place)
        if gone is not None:
            wanted = self._want(gone)
            wanted.whole, wanted.section = True, section
        elif place not in self._went and not self._retyped(place) and not self._along(place):
            raise self._unknown(section, place)

    def _retyped(self, place: Place) -> bool:
        here = self._here.get(place)
        return here is not None and here.kind in ("retyped", "renamed", "modified")

    def _unknown(self, section: Section, place: Place) -> NotFound:
        what = "deleted" if place in self._gone and not section.deleted else "not changed"
        return NotFound(
            f"line {section.line} of the patch names {display(section.new)},"
            f" which is {what} in the session",
            hint="goexfs diff lists the changes",
        )

    def _along(self, place: Place) -> bool:
        """Whether it moves with a directory."""
        root, path = place
        for above in ancestors(path):
            moved = [each.get((root, above)) for each in (self._here, self._went)]
            if any(c is not None and c.kind == "renamed" and c.type == "dir" for c in moved):
                return True
        return False

    # -- what follows ---------------------------------------------------------------------------

    def follow(self) -> None:
        """Directories that go with their files; and renames are whole."""
        for change in self._changes:
            if change.kind == "renamed" and change.type in ("file", "symlink"):
                self._both_ends(change)
            elif change.kind == "retyped":
                self._both_sides(change)
        chosen = {(root, path) for root, path, gone in self.found if gone}
        chosen |= {
            (change.root, change.old_path)
            for change in self._changes
            if change.old_path is not None and key(change) in self.found
        }
        for where in _directories_of(self._files_gone(), chosen):
            gone = self._gone.get(where)
            if gone is not None and gone.type == "dir":
                self._want(gone).whole = True

    def _files_gone(self) -> Iterable[Place]:
        for change in self._changes:
            if change.kind == "deleted" and change.type in ("file", "symlink"):
                yield change.root, change.path
            elif change.old_path is not None and change.type in ("file", "symlink", "dir"):
                yield change.root, change.old_path

    def _both_ends(self, change: Change) -> None:
        assert change.old_path is not None
        deleted = (change.root, change.old_path) in self._named
        if key(change) in self.found and not deleted:
            raise Usage(
                f"the patch has {display(change.path)}, which was {display(change.old_path)}:"
                " one cannot be committed without the other",
                hint="keep both sections, or none",
            )
        if (
            deleted
            and key(change) not in self.found
            and (change.root, change.old_path) not in (self._here.keys() | self._gone.keys())
        ):
            raise Usage(
                f"the patch takes {display(change.old_path)} away, which became"
                f" {display(change.path)}: one cannot be committed without the other",
                hint="keep both sections, or none",
            )

    def _both_sides(self, change: Change) -> None:
        named = (change.root, change.path) in self._named
        wanted = self.found.get(key(change))
        if named and (wanted is None or not wanted.whole):
            raise Usage(
                f"{display(change.path)} was a {change.old_type} and is a {change.type}:"
                " it can only be committed whole",
                hint="keep the line that says so, and its sections",
            )


def _directories_of(files: Iterable[Place], chosen: set[Place]) -> set[Place]:
    """Every directory that holds one of the files and something chosen."""
    holds = {(root, above) for root, path in files for above in ancestors(path)}
    return {
        (root, above)
        for root, path in chosen
        for above in ancestors(path)
        if (root, above) in holds
    }


Picked = Mapping[Key, Wanted]
