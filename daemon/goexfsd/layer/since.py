"""Two views of which one came of the other, read only as far as they may differ.

The daemon asks the file system which inodes of the newer layer were changed since the older one
was kept (``goexfsd.store.newer``), and where they are.  From this both upper trees are read:

* whatever was changed, under each of its names, with the directories above it;
* in each directory that was changed, the names that only one of the two has, or that are other
  inodes: what was removed, or moved away, is known only by that;
* of what is gone, everything that was in it, down to the directories that went elsewhere.

What is not read then is the same in both: the same inodes under the same names in the same
directories, unchanged.  (A directory that shows in two places was moved, so it was changed, or
one above it was; the directories around it were too.)  So the comparison of the two parts is
the comparison of the two whole trees.

Records may change what an inode shows without touching it (an owner that the disk cannot have):
those that the newer log speaks of anew count as changed.  Where this cannot be told (the log was
written anew, an entry of ``index`` is a file's only name) there are no parts, and the caller
walks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from goexfsd import kernel
from goexfsd.layer.format import INDEX, ORIGINS
from goexfsd.layer.part import Part
from goexfsd.layer.recall import Recalled, Skim
from goexfsd.layer.tree import Dirs, Node


@dataclass(frozen=True, slots=True)
class Newer:
    """What the file system says of the newer layer."""

    changed: set[int]
    """Inodes."""
    names: dict[int, list[tuple[int, bytes]]]
    """Inode -> (directory, name): of these, and of the directories above."""


Ask = Callable[[list[int]], Newer | None]
"""What changed; further inodes that count as changed.  None: unknown."""
Tick = Callable[[], None]


class Root(Protocol):
    @property
    def index(self) -> int: ...

    @property
    def name(self) -> str: ...


def open_parts(
    old_fd: int, new_fd: int, roots: Sequence[Root], root_fds: Sequence[int], ask: Ask, tick: Tick
) -> list[tuple[Part, Part]] | None:
    """Both views of every root, to be closed by the caller; None: they must be walked."""
    start = _common_log(old_fd, new_fd)
    if start is None:
        return None
    log = Skim(new_fd, start)
    newer = ask(log.later) if log.whole else None
    if newer is None or not _index_is_plain(old_fd, new_fd, newer):
        return None
    below: dict[int, set[bytes]] = {}
    for places in newer.names.values():
        for directory, name in places:
            below.setdefault(directory, set()).add(name)
    opened: list[tuple[Part, Part]] = []
    parts: list[Part] = []
    try:
        for root, fd in zip(roots, root_fds, strict=True):
            for layer_fd, end in ((old_fd, start), (new_fd, log.size)):
                seen = Recalled.of(log, root.index, end)
                parts.append(Part(layer_fd, root.index, root.name, fd, seen, tick=tick))
            opened.append((parts[-2], parts[-1]))
            _Reading(parts[-2], parts[-1], newer.changed, below, tick).run()
    except BaseException:
        for part in parts:
            part.close()
        raise
    return opened


def _common_log(old_fd: int, new_fd: int) -> int | None:
    """How many bytes of the newer log are the older one; None: it was written anew."""
    try:
        old, new = (os.stat(ORIGINS, dir_fd=fd, follow_symlinks=False) for fd in (old_fd, new_fd))
    except FileNotFoundError:
        return None
    return old.st_size if old.st_ino == new.st_ino and old.st_size <= new.st_size else None


def _index_is_plain(old_fd: int, new_fd: int, newer: Newer) -> bool:
    """Whether no file that has several names in the base was changed: it may show under one that
    has no upper entry, and nothing says where that is."""
    fds: list[int] = []
    try:
        for layer_fd in (old_fd, new_fd):
            fds.append(kernel.open_dir_beneath(layer_fd, INDEX))
        index = os.stat(b".", dir_fd=fds[1]).st_ino
        if index in newer.changed:
            before, after = (frozenset(Dirs(fd).inodes(b"")) for fd in fds)
            if before - after:
                return False
        for ino in newer.changed:
            if any(directory == index for directory, _ in newer.names.get(ino, ())):
                return False
    except FileNotFoundError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True


class _Reading:
    """One root's two upper trees, read as far as they may differ."""

    def __init__(
        self, old: Part, new: Part, changed: set[int], below: dict[int, set[bytes]], tick: Tick
    ) -> None:
        self._old, self._new = old, new
        self._changed, self._below = changed, below
        self._tick = tick
        self._there: dict[int, Node] = {}
        """Directories of the newer tree that were changed, or hold what was."""
        self._done: set[int] = set()

    def run(self) -> None:
        self._read_new()
        pending = [(self._old.uppermost, self._new.uppermost)]
        while pending:
            before, after = pending.pop()
            if before.st.st_ino in self._done:
                continue
            self._done.add(before.st.st_ino)
            self._tick()
            for name in self._differing(before, after):
                other = self._new.load(after, name)
                here = self._old.load(before, name)
                if here is None or here.children is None:
                    continue
                if other is not None and other.st.st_ino == here.st.st_ino:
                    pending.append((here, other))
                else:
                    pending += self._gone(here)

    def _read_new(self) -> None:
        stack = [self._new.uppermost]
        while stack:
            node = stack.pop()
            self._there[node.st.st_ino] = node
            self._tick()
            for name in self._below.get(node.st.st_ino, ()):
                child = self._new.load(node, name)
                if child is not None and child.children is not None:
                    stack.append(child)

    def _differing(self, before: Node, after: Node) -> set[bytes]:
        names = set(self._below.get(after.st.st_ino, ()))
        if after.st.st_ino in self._changed:
            one, other = set(self._old.listed(before)), set(self._new.listed(after))
            names.update(name for name, _ in one ^ other)
        return names

    def _gone(self, node: Node) -> list[tuple[Node, Node]]:
        """Read what was in a directory that is no more in its place; the directories that went
        elsewhere, before and after."""
        found: list[tuple[Node, Node]] = []
        stack = [node]
        while stack:
            here = stack.pop()
            now = self._there.get(here.st.st_ino)
            if now is not None:
                found.append((here, now))
                continue
            self._tick()
            stack += self._old.load_all(here)
        return found
