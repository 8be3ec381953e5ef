"""The change list: every difference between two views of the same roots, and none that is not one.

A view is a layer over the base, or the base alone; so one comparison serves both "what did the
session change" and "what did this step change".

* Cost follows the change: only what an upper tree speaks of is looked at in the base.
* Touched but equal is no change.  Times are one only where somebody set them.
* Nothing is folded away: whatever is in a deleted or created directory is listed itself.  Only a
  renamed directory stands for what is in it, as far as that is unchanged.
* A file of several names that was changed through one of them is listed there, with ``links``
  saying how many names show it.

It knows nothing of the protocol; ``layer.jobs`` makes the wire form.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from goexfsd.layer import seen
from goexfsd.layer.contents import same_bytes
from goexfsd.layer.matching import Matched, match, same_inode
from goexfsd.layer.origins import Identity
from goexfsd.layer.part import Part
from goexfsd.layer.seen import Seen
from goexfsd.layer.since import Ask, open_parts
from goexfsd.layer.tree import Entry, Tree

Kind = Literal["deleted", "created", "modified", "renamed", "retyped", "metadata"]
FileType = Literal["file", "dir", "symlink", "fifo", "socket", "char", "block"]
Progress = Callable[[str, int, int | None], None]
"""Called now and then with a stage, how much is done, and the total (None: unknown)."""


class Root(Protocol):
    """What is needed of a root (``goexfsd.worker.Root`` is one)."""

    @property
    def index(self) -> int: ...

    @property
    def name(self) -> str: ...


@dataclass(slots=True)
class Change:
    """One difference; never changed once made (frozen costs as much as two system calls).

    ``old_path`` is set for renames only.  A deletion's ``path`` is where the entry was; below a
    renamed directory every other ``path`` is the new place, and its base counterpart lies below
    that directory's ``old_path``.
    """

    kind: Kind
    root: int
    path: bytes
    """Now (for a deletion: where it was), relative to the root; b"" is the root itself."""
    old_path: bytes | None
    """Renamed: the path it came from."""
    type: FileType
    old_type: FileType | None
    st: os.stat_result | None
    """In the view now (None: deleted), mode and owner as shown."""
    old_st: os.stat_result | None
    """What it was (None: created)."""
    aspects: frozenset[str]
    """What differs: content, mode, owner, xattrs, target, device, times, links."""
    source: bytes | None
    """Path below ``upper/<root name>/`` of the upper inode; None for deletions."""
    upper_ino: int
    """0 where there is no upper inode."""
    origin: Identity | None
    """What the session saw in the base at ``old_path`` or ``path``; None: nothing was there,
    or it is a change between two layers."""
    links: int
    """Names that the file has in the view."""


@dataclass(slots=True)
class Difference:
    """A change with the entries that it is between."""

    change: Change
    before: Entry | None
    after: Entry | None


@dataclass(frozen=True, slots=True)
class Views:
    """One root's two views."""

    old: Tree
    new: Tree


def compute(
    layer_fd: int,
    roots: Sequence[Root],
    root_fds: Sequence[int],
    *,
    progress: Progress | None = None,
    known: Mapping[int, Seen] | None = None,
) -> list[Change]:
    """All changes of the layer against the base: deletions first, then by root and path.

    ``known``: the layer's log, where it has been read already.  Raises Denied if something cannot
    be read, StoreFailed if the layer is damaged.
    """
    with open_views(None, layer_fd, roots, root_fds, progress=progress, known=known) as views:
        return [difference.change for difference in differences(views, progress=progress)]


@contextlib.contextmanager
def open_views(
    old_fd: int | None,
    new_fd: int | None,
    roots: Sequence[Root],
    root_fds: Sequence[int],
    *,
    progress: Progress | None = None,
    ask: Ask | None = None,
    known: Mapping[int, Seen] | None = None,
) -> Iterator[list[Views]]:
    """The two views of every root; a layer of None is the base alone.

    With ``ask``, which says what of the new layer is newer than the old one, they are read only
    as far as they may differ.  ``known``: the log of the new one, where it has been read already.
    """
    counter = _Counter("reading", progress)
    with contextlib.ExitStack() as stack:
        if ask is not None and old_fd is not None and new_fd is not None:
            parts = open_parts(old_fd, new_fd, roots, root_fds, ask, counter.tick)
            if parts is not None:
                for part in (tree for pair in parts for tree in pair):
                    stack.callback(part.close)
                yield [Views(*pair) for pair in parts]
                return
        numbers = [root.index for root in roots]
        records: list[Mapping[int, Seen]] = [{} if old_fd is None else seen.read(old_fd, numbers)]
        if known is None:
            known = {} if new_fd is None else seen.read(new_fd, numbers)
        records.append(known)
        views: list[Views] = []
        for root, root_fd in zip(roots, root_fds, strict=True):
            pair: list[Tree] = []
            for layer_fd, record in zip((old_fd, new_fd), records, strict=True):
                tree = Tree(
                    layer_fd,
                    root.index,
                    root.name,
                    root_fd,
                    record.get(root.index),
                    tick=counter.tick,
                )
                stack.callback(tree.close)
                pair.append(tree)
            views.append(Views(*pair))
        yield views


def differences(views: Sequence[Views], *, progress: Progress | None = None) -> list[Difference]:
    """Every difference of all roots: deletions first, then by root and path."""
    found: list[Difference] = []
    for pair in views:
        found += _Comparison(pair, progress).run()
    return sorted(found, key=lambda difference: _order(difference.change))


def in_order(changes: Iterable[Change]) -> list[Change]:
    """Deletions first, then by root and path."""
    return sorted(changes, key=_order)


def _order(change: Change) -> tuple[bool, int, bytes]:
    # "/" before any other byte: what is in a directory follows it at once.
    return change.kind != "deleted", change.root, change.path.replace(b"/", b"\0")


class _Counter:
    """Tells of progress once in a while."""

    _EVERY = 500

    def __init__(self, stage: str, progress: Progress | None, total: int | None = None) -> None:
        self._stage = stage
        self._progress = progress
        self._total = total
        self._done = 0

    def tick(self) -> None:
        self._done += 1
        if self._progress is not None and self._done % self._EVERY == 0:
            self._progress(self._stage, self._done, self._total)


class _Comparison:
    """Turns the matched entries of one root into changes."""

    def __init__(self, views: Views, progress: Progress | None) -> None:
        self.old = views.old
        self.new = views.new
        self.progress = progress
        # Within one tick of the clock two writes leave one ctime: what changed last before the
        # older of two layers was taken is compared by its bytes.
        newest = min(self.old.newest_ns, self.new.newest_ns)
        self.settled_ns = newest - 100_000_000

    def run(self) -> list[Difference]:
        matched = match(self.old, self.new, _Counter("matching", self.progress).tick)
        total = len(matched.deleted) + len(matched.created)
        total += len(matched.same) + len(matched.moved)
        counter = _Counter("comparing", self.progress, total)
        return [found for found in self._each(matched, counter) if found is not None]

    def _each(self, matched: Matched, counter: _Counter) -> Iterator[Difference | None]:
        for before in matched.deleted:
            counter.tick()
            yield self._deleted(before)
        for before, after in matched.moved:
            counter.tick()
            yield self._difference(
                "renamed", before, after, frozenset(self._aspects(before, after))
            )
        for before, after in matched.same:
            counter.tick()
            if not self._is_listed_elsewhere(before, after):
                yield self._same(before, after)
        for before, after in self._nameless(self._orphans(matched)):
            yield self._same(before, after)
        for after in matched.created:
            counter.tick()
            yield self._difference("created", None, after, frozenset())

    def _deleted(self, before: Entry) -> Difference:
        base = before.path if before.base is None else before.base
        change = Change(
            kind="deleted",
            root=self.old.root_index,
            path=before.path,
            old_path=None,
            type=file_type(before.st),
            old_type=None,
            st=None,
            old_st=before.st,
            aspects=frozenset(),
            source=None,
            upper_ino=0,
            origin=self._origin(base),
            links=self.old.links(before),
        )
        return Difference(change, before, None)

    def _difference(
        self, kind: Kind, before: Entry | None, after: Entry, aspects: frozenset[str]
    ) -> Difference:
        base = before.base if before is not None else None
        if base is None:
            base = self.new.natural(after.path)
        change = Change(
            kind=kind,
            root=self.new.root_index,
            path=after.path,
            old_path=before.path if before is not None and kind == "renamed" else None,
            type=file_type(after.st),
            old_type=file_type(before.st) if before is not None else None,
            st=after.st,
            old_st=before.st if before is not None else None,
            aspects=aspects,
            source=after.node.path if after.node is not None else None,
            upper_ino=0 if after.base is not None else after.st.st_ino,
            origin=self._origin(base),
            links=self.new.links(after),
        )
        return Difference(change, before, after)

    def _same(self, before: Entry, after: Entry) -> Difference | None:
        if stat.S_IFMT(before.st.st_mode) != stat.S_IFMT(after.st.st_mode):
            return self._difference("retyped", before, after, frozenset())
        aspects = self._aspects(before, after)
        if not after.is_dir and self._linked_anew(before, after):
            aspects.add("links")
        if not aspects:
            return None
        kind: Kind = "metadata" if aspects.isdisjoint(_CONTENT) else "modified"
        return self._difference(kind, before, after, frozenset(aspects))

    def _origin(self, base: bytes) -> Identity | None:
        return None if self.old.layered else self.new.seen.first.get(base)

    # -- what differs --------------------------------------------------------------------------

    def _aspects(self, before: Entry, after: Entry) -> set[str]:
        found: set[str] = set()
        if before.base is not None and before.base == after.base:
            return found
        if self._untouched(before, after):
            return found
        one, other = before.st, after.st
        kind = stat.S_IFMT(one.st_mode)
        if one.st_mode != other.st_mode and kind != stat.S_IFLNK:
            found.add("mode")
        if (one.st_uid, one.st_gid) != (other.st_uid, other.st_gid):
            found.add("owner")
        if self._timed(before, after) and one.st_mtime_ns != other.st_mtime_ns:
            found.add("times")
        if self.old.xattrs(before) != self.new.xattrs(after):
            found.add("xattrs")
        if not self._same_data(kind, before, after):
            found.add(_DATA[kind])
        return found

    def _same_data(self, kind: int, before: Entry, after: Entry) -> bool:
        if kind == stat.S_IFREG:
            return self._same_content(before, after)
        if kind == stat.S_IFLNK:
            return self.old.target(before) == self.new.target(after)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return before.st.st_rdev == after.st.st_rdev
        return True

    def _untouched(self, before: Entry, after: Entry) -> bool:
        """Between two layers: the same upper inode, not changed since the older one was taken."""
        if before.base is not None or after.base is not None:
            return False
        one, other = before.st, after.st
        return (
            one.st_ctime_ns == other.st_ctime_ns
            and one.st_ctime_ns < self.settled_ns
            and (one.st_ino, one.st_size, one.st_mtime_ns, one.st_mode, one.st_uid, one.st_gid)
            == (
                other.st_ino,
                other.st_size,
                other.st_mtime_ns,
                other.st_mode,
                other.st_uid,
                other.st_gid,
            )
        )

    def _timed(self, before: Entry, after: Entry) -> bool:
        """Whether either view's times were set, and did not merely happen."""
        return (after.base is None and after.st.st_ino in self.new.seen.times) or (
            before.base is None and before.st.st_ino in self.old.seen.times
        )

    def _same_content(self, before: Entry, after: Entry) -> bool:
        size = before.st.st_size
        if size != after.st.st_size:
            return False
        if size == 0:
            return True
        sparse = any(entry.st.st_blocks * 512 < size for entry in (before, after))
        one = self.old.open(before)
        if one is None:
            return False
        try:
            other = self.new.open(after)
            if other is None:
                return False
            try:
                return same_bytes(one, other, size, sparse=sparse)
            finally:
                os.close(other)
        finally:
            os.close(one)

    # -- files with several names --------------------------------------------------------------

    def _linked_anew(self, before: Entry, after: Entry) -> bool:
        """Whether this name now belongs to another file than before, and that shows because one
        of the two has several names."""
        links = self.old.links(before)
        if links == 1 and self.new.links(after) == 1:
            return False
        if same_inode(self.old, before, self.new, after):
            return False
        names = self.new.several.get(after.st.st_ino, ())
        if len(names) != links or after.base is not None:
            return True
        return not all(self._was_linked(before, node.path) for node in names)

    def _was_linked(self, before: Entry, path: bytes) -> bool:
        entry = self.old.lookup(path)
        return entry is not None and same_inode(self.old, entry, self.old, before)

    def _is_listed_elsewhere(self, before: Entry, after: Entry) -> bool:
        """Whether this is a name of a file that changed under another."""
        if before.is_dir or after.is_dir or (before.index is None and after.index is None):
            return False
        return same_inode(self.old, before, self.new, after)

    def _orphans(self, matched: Matched) -> set[bytes]:
        """Files in the new index of which no upper name stands where the old view has the file:
        somebody took those names away in the base, and left others."""
        found = {ino: name for name, ino in self.new.indexed.items() if ino in self.new.several}
        for before, after in (*matched.same, *matched.moved) if found else ():
            if after.st.st_ino in found and self._shows_still(before, after):
                del found[after.st.st_ino]
        return set(found.values())

    def _shows_still(self, before: Entry, after: Entry) -> bool:
        """Whether an upper file stands where the old view has what it is a copy of."""
        if before.base is None or after.base is not None:
            return before.st.st_ino == after.st.st_ino
        record = self.new.seen.copies.get(after.st.st_ino)
        was = None if record is None else (record.identity.dev, record.identity.ino)
        return was == self.old.inode(before.st)

    def _nameless(self, orphans: set[bytes]) -> Iterator[tuple[Entry, Entry]]:
        """Names that show a file copied up under another name which it no longer has.

        Nothing in the layer says where such a name is, so this (rare) case walks the view.
        """
        if isinstance(self.new, Part):
            return  # ``since`` knows that there are none
        wanted = _nameless(self.new) | _nameless(self.old) | orphans
        if not wanted:
            return
        for after in self.new.walk(self.new.top):
            if after.is_dir:
                continue
            before = self.old.lookup(self._old_place(after.path))
            if before is None or before.index is after.index:
                continue
            name = after.index or before.index
            if name in wanted and self._one_file(before, after):
                yield before, after

    def _one_file(self, before: Entry, after: Entry) -> bool:
        if before.base is not None and after.index is not None:
            return self.old.index_name(before.st) == after.index
        return same_inode(self.old, before, self.new, after)

    def _old_place(self, path: bytes) -> bytes:
        return self.new.natural(path) if not self.old.newest_ns else path


def _nameless(tree: Tree) -> set[bytes]:
    return {
        name
        for name, ino in tree.indexed.items()
        if ino not in tree.several and tree.uncovered(ino) > 0
    }


_DATA = {
    stat.S_IFREG: "content",
    stat.S_IFLNK: "target",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_CONTENT = frozenset(_DATA.values())

_TYPES: dict[int, FileType] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}


def file_type(st: os.stat_result) -> FileType:
    """The wire's word for a type."""
    return _TYPES[stat.S_IFMT(st.st_mode)]
