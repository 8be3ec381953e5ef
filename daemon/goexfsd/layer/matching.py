"""Which entry of one view is which entry of another, of the same root.

Two trees are walked side by side, and only where one of their upper trees speaks: where neither
does and both show the same base directory, they are the same.

* A directory is the same one if its key is (the base directory that it is, or the inode that
  the session created): wherever both views show it, it was *moved*, at no cost for what is in it.
* Anything else is matched by its place first.  What is left over on both sides is matched by
  what it is a copy of: a *rename*.
* A file with several names is matched by what it is first, for its names belong together.

It knows nothing of what differs between two matched entries.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from goexfsd.layer.tree import Entry, Tree


@dataclass(slots=True)
class Matched:
    """Everything that may differ."""

    deleted: list[Entry] = field(default_factory=list)
    created: list[Entry] = field(default_factory=list)
    same: list[tuple[Entry, Entry]] = field(default_factory=list)
    """Kept their place."""
    moved: list[tuple[Entry, Entry]] = field(default_factory=list)


def match(old: Tree, new: Tree, tick: Callable[[], None] | None = None) -> Matched:
    """Match the two views of one root."""
    return _Matcher(old, new, tick or (lambda: None)).run()


class _Matcher:
    def __init__(self, old: Tree, new: Tree, tick: Callable[[], None]) -> None:
        self.old = old
        self.new = new
        self.tick = tick
        self.found = Matched()
        self.split: list[tuple[Entry, Entry]] = []
        self.pending: list[tuple[Entry, Entry]] = []

    def run(self) -> Matched:
        self._together(self.old.top, self.new.top)
        while self.pending:
            self._directory(*self.pending.pop())
        _pair_renames(self.old, self.new, self.found, self.split)
        return self.found

    def _together(self, before: Entry, after: Entry) -> None:
        self.found.same.append((before, after))
        if before.is_dir and after.is_dir:
            self.pending.append((before, after))

    def _directory(self, before: Entry, after: Entry) -> None:
        self.tick()
        if before.lower == after.lower:
            names = self.old.touched(before) | self.new.touched(after)
        else:
            names = self.old.names(before) | self.new.names(after)
        for name in names:
            self._place(self.old.child(before, name), self.new.child(after, name))

    def _place(self, before: Entry | None, after: Entry | None) -> None:
        """One name in both views."""
        if before is not None and after is not None and _same_directory(before, after):
            self._together(before, after)
            return
        if after is not None and after.is_dir and self._from_elsewhere(after):
            after = None
        if before is not None and self._went_elsewhere(before):
            before = None
        if before is None or after is None:
            self._gone(before)
            self._came(after)
        elif before.is_dir != after.is_dir:
            self.found.same.append((before, after))
            self._all_gone(list(self.old.children(before)) if before.is_dir else [])
            self._all_came(list(self.new.children(after)) if after.is_dir else [])
        elif before.is_dir or not self._of_several(before, after):
            self._together(before, after)
        else:
            self.split.append((before, after))

    def _of_several(self, before: Entry, after: Entry) -> bool:
        if self.old.links(before) == 1 and self.new.links(after) == 1:
            return False
        return not same_inode(self.old, before, self.new, after)

    def _from_elsewhere(self, after: Entry) -> bool:
        before = self.old.find(after.key)
        if before is None:
            return False
        self.found.moved.append((before, after))
        self.pending.append((before, after))
        return True

    def _went_elsewhere(self, before: Entry) -> bool:
        return before.is_dir and self.new.find(before.key) is not None

    def _gone(self, entry: Entry | None) -> None:
        if entry is not None:
            self._all_gone([entry])

    def _all_gone(self, stack: list[Entry]) -> None:
        while stack:
            entry = stack.pop()
            if self._went_elsewhere(entry):
                continue
            self.found.deleted.append(entry)
            if entry.is_dir:
                self.tick()
                stack.extend(self.old.children(entry))

    def _came(self, entry: Entry | None) -> None:
        if entry is not None and not (entry.is_dir and self._from_elsewhere(entry)):
            self.found.created.append(entry)
            if entry.is_dir:
                self._all_came(list(self.new.children(entry)))

    def _all_came(self, stack: list[Entry]) -> None:
        while stack:
            entry = stack.pop()
            if entry.is_dir and self._from_elsewhere(entry):
                continue
            self.found.created.append(entry)
            if entry.is_dir:
                self.tick()
                stack.extend(self.new.children(entry))


def _same_directory(before: Entry, after: Entry) -> bool:
    return before.is_dir and after.is_dir and before.key == after.key


# -- files over renames ---------------------------------------------------------------------------

FileKey = bytes | int | tuple[int, int]
"""A base path, the upper inode of a created file, or a base inode of several names."""


def file_keys(tree: Tree, entry: Entry) -> list[FileKey]:
    """What an entry that is no directory may be known by, the surest first."""
    if entry.base is not None:
        st = entry.st
        if st.st_nlink == 1:
            return [entry.base]
        return [entry.base, tree.inode(st)]
    record = tree.seen.copies.get(entry.st.st_ino)
    if record is None:
        return [entry.st.st_ino]
    if record.identity.nlink == 1:
        return [record.path]
    return [record.path, (record.identity.dev, record.identity.ino)]


def same_inode(old: Tree, before: Entry, new: Tree, after: Entry) -> bool:
    """Whether the two are one file (and not merely equal)."""
    return not set(file_keys(old, before)).isdisjoint(file_keys(new, after))


def _pair_renames(old: Tree, new: Tree, found: Matched, split: list[tuple[Entry, Entry]]) -> None:
    """Turn deletions and creations of one file into renames, then settle ``split``: places of
    files with several names, which are both deleted and created unless that is all."""
    sources = _Sources(old, [*found.deleted, *(before for before, _ in split)])
    created: list[Entry] = []
    unmoved = {id(after) for _, after in split}
    came = sorted([*found.created, *(after for _, after in split)], key=lambda e: e.path)
    for after in came:
        before = None if after.is_dir else sources.take(file_keys(new, after), after)
        if before is not None:
            found.moved.append((before, after))
            unmoved.discard(id(after))
        elif id(after) not in unmoved:
            created.append(after)
    taken = sources.taken
    found.deleted = [entry for entry in found.deleted if id(entry) not in taken]
    for before, after in split:
        if id(after) in unmoved and id(before) not in taken:
            found.same.append((before, after))
        elif id(after) in unmoved:
            created.append(after)
        elif id(before) not in taken:
            found.deleted.append(before)
    found.created = created


class _Sources:
    """What may have been renamed away, by each of its keys."""

    def __init__(self, tree: Tree, entries: list[Entry]) -> None:
        self.taken: set[int] = set()
        self._by_key: dict[FileKey, list[Entry]] = {}
        for entry in sorted(entries, key=lambda e: e.path, reverse=True):
            if not entry.is_dir:
                for key in file_keys(tree, entry):
                    self._by_key.setdefault(key, []).append(entry)

    def take(self, keys: list[FileKey], after: Entry) -> Entry | None:
        for key in keys:
            waiting = self._by_key.get(key, [])
            while waiting:
                before = waiting.pop()
                if id(before) in self.taken:
                    continue
                if stat.S_IFMT(before.st.st_mode) != stat.S_IFMT(after.st.st_mode):
                    continue
                self.taken.add(id(before))
                return before
        return None
