"""The patch: the change list in git's extended format, for ``git apply`` and ``patch -p1``.

The patch speaks of files and symlinks, so renamed directories are spelled out file by file.
Every path is taken away from or added to at most once, whatever order the tool goes in: a rename
is written as one only if nobody else needs its old or new name (and it is no symlink: GNU patch
refuses those); otherwise as what happens at either path.

What git cannot express (fifos, devices, empty directories, full modes, owners, extended
attributes, times, hard links, and content beyond ``MAX_CONTENT``) stands between the diffs in
lines that begin with ``# goexfs:``; both tools pass over them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from goexfsd.layer import gitform
from goexfsd.layer.changes import Change, Difference, Views
from goexfsd.layer.lines import hunks, split
from goexfsd.layer.tree import Entry, Tree, join

MAX_CONTENT = 64 << 20
"""Bytes of a file; the content of a larger one is left out (it would be held in memory)."""
MAX_TEXT = 16 << 20
"""Bytes of a file that is compared by lines; a larger one is written as a binary is."""

_ANEW = ("created", "renamed", "retyped")
_PLAIN_MODES = (0o644, 0o755)


@dataclass(frozen=True, slots=True)
class _Side:
    """A file or symlink before or after."""

    tree: Tree
    entry: Entry

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.entry.st.st_mode)

    @property
    def mode(self) -> bytes:
        """One of git's three."""
        if self.kind == stat.S_IFLNK:
            return b"120000"
        return b"100755" if self.entry.st.st_mode & 0o100 else b"100644"

    def data(self) -> bytes | None:
        """All of it; None if it is too large or cannot be read."""
        if self.kind == stat.S_IFLNK:
            return self.tree.target(self.entry)
        if self.entry.st.st_size > MAX_CONTENT:
            return None
        fd = self.tree.open(self.entry)
        if fd is None:
            return None
        with os.fdopen(fd, "rb") as file:
            return file.read(MAX_CONTENT)


@dataclass(slots=True)
class _Plan:
    """What happens at each path of one root."""

    removed: dict[bytes, _Side] = field(default_factory=dict)
    added: dict[bytes, _Side] = field(default_factory=dict)
    pairs: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Renames, old path and new."""
    notes: dict[bytes, list[bytes]] = field(default_factory=dict)
    """New path -> what git cannot say about it."""


def patch(
    views: Sequence[Views], differences: Iterable[Difference], *, binary: bool = True
) -> Iterator[bytes]:
    """The patch of these differences, piece by piece.

    With several roots, paths begin with the root's name.  Without ``binary`` it is only for
    reading: of a binary file it says no more than that it differs.
    """
    by_root: dict[int, list[Difference]] = {}
    for difference in differences:
        by_root.setdefault(difference.change.root, []).append(difference)
    for pair in views:
        prefix = os.fsencode(pair.new.root_name) if len(views) > 1 else b""
        found = by_root.get(pair.new.root_index)
        if found:
            yield from _Writer(prefix, binary).root(_plan(pair, found))


# -- what happens at each path ---------------------------------------------------------------


def _plan(views: Views, found: list[Difference]) -> _Plan:
    plan = _Plan()
    listed = {d.change.path: d.change.kind for d in found if d.change.kind != "deleted"}
    for difference in found:
        before, after = difference.before, difference.after
        if before is not None and after is not None and before.is_dir and after.is_dir:
            if difference.change.kind == "renamed":
                _spell_out(views, before, after, listed, plan)
        else:
            _take(views, before, after, plan)
    implied = {"deleted": _parents(plan.removed), "created": _parents(plan.added)}
    for difference in found:
        change = difference.change
        notes = [*_entry_notes(change, implied), *_aspect_notes(change)]
        if notes:
            plan.notes.setdefault(change.path, []).extend(notes)
    return plan


def _parents(paths: Iterable[bytes]) -> set[bytes]:
    """Every directory that one of the paths lies in."""
    found: set[bytes] = set()
    for path in paths:
        parent = path.rpartition(b"/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition(b"/")[0]
    return found


def _take(views: Views, before: Entry | None, after: Entry | None, plan: _Plan) -> None:
    old = _side(views.old, before)
    new = _side(views.new, after)
    if old is not None:
        plan.removed[old.entry.path] = old
    if new is not None:
        plan.added[new.entry.path] = new
    if old is not None and new is not None and old.entry.path != new.entry.path:
        plan.pairs.append((old.entry.path, new.entry.path))


def _side(tree: Tree, entry: Entry | None) -> _Side | None:
    if entry is None or not (stat.S_ISREG(entry.st.st_mode) or stat.S_ISLNK(entry.st.st_mode)):
        return None
    return _Side(tree, entry)


def _spell_out(
    views: Views, before: Entry, after: Entry, listed: Mapping[bytes, str], plan: _Plan
) -> None:
    """What came along, unchanged, with a renamed directory."""
    stack = [(before, after)]
    while stack:
        old_dir, new_dir = stack.pop()
        for new in views.new.children(new_dir):
            kind = listed.get(new.path)
            if kind in _ANEW or (kind is not None and not new.is_dir):
                continue
            old = views.old.child(old_dir, new.path.rpartition(b"/")[2])
            if old is not None and new.is_dir:
                stack.append((old, new))
            elif old is not None:
                _take(views, old, new, plan)


# -- what git cannot say ----------------------------------------------------------------------


def _entry_notes(change: Change, implied: Mapping[str, set[bytes]]) -> Iterator[bytes]:
    """``implied``: the directories that come or go with a file in them."""
    here = change.type.encode()
    if change.kind in implied:
        if change.type not in ("file", "symlink") and change.path not in implied[change.kind]:
            yield change.kind.encode() + b" " + here
        if change.kind == "created" and change.links > 1:
            yield b"created as one of %d names of a file" % change.links
    elif change.kind == "retyped":
        assert change.old_type is not None
        yield b"was a " + change.old_type.encode() + b", is a " + here
    elif change.kind == "renamed" and change.type not in ("file", "symlink"):
        assert change.old_path is not None
        yield b"renamed " + here + b" from " + gitform.quote(change.old_path)


def _aspect_notes(change: Change) -> Iterator[bytes]:
    if change.st is None or change.old_st is None:
        return
    before, after = change.old_st, change.st
    if "mode" in change.aspects and not (_plain(change, before) and _plain(change, after)):
        yield b"mode %04o, was %04o" % (stat.S_IMODE(after.st_mode), stat.S_IMODE(before.st_mode))
    if "owner" in change.aspects:
        now, was = (after.st_uid, after.st_gid), (before.st_uid, before.st_gid)
        yield b"owner %d:%d, was %d:%d" % (*now, *was)
    if "device" in change.aspects:
        yield b"another device number"
    if "xattrs" in change.aspects:
        yield b"extended attributes differ"
    if "times" in change.aspects:
        yield b"times were set"
    if "links" in change.aspects:
        yield b"hard links differ"
    if change.links > 1 and "content" in change.aspects:
        yield b"one of %d names of a file, which all change" % change.links


def _plain(change: Change, st: os.stat_result) -> bool:
    """Whether git's modes say it all."""
    return change.type == "file" and stat.S_IMODE(st.st_mode) in _PLAIN_MODES


# -- writing ---------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, prefix: bytes, binary: bool) -> None:
        self.prefix = prefix
        self.binary = binary

    def root(self, plan: _Plan) -> Iterator[bytes]:
        """All of one root: what goes first, then what is, in the order of paths."""
        renames = {
            new: old
            for old, new in plan.pairs
            if old not in plan.added
            and new not in plan.removed
            and plan.removed[old].kind == plan.added[new].kind == stat.S_IFREG
        }
        sources = set(renames.values())
        notes = dict(plan.notes)
        for path in sorted(plan.removed, key=_order):
            if path not in plan.added and path not in sources:
                yield from self.notes(path, notes.pop(path, []))
                yield from self.deleted(path, plan.removed[path])
        for path in sorted({*plan.added, *notes}, key=_order):
            yield from self.notes(path, notes.get(path, []))
            if path in renames:
                old = renames[path]
                yield from self.renamed(old, path, plan.removed[old], plan.added[path])
            elif path in plan.added and path in plan.removed:
                yield from self.changed(path, plan.removed[path], plan.added[path])
            elif path in plan.added:
                yield from self.created(path, plan.added[path])

    def notes(self, path: bytes, notes: list[bytes]) -> Iterator[bytes]:
        name = gitform.quote(join(self.prefix, path) or b".")
        for note in notes:
            yield b"# goexfs: %s: %s\n" % (name, note)

    def too_large(self, path: bytes, side: _Side) -> Iterator[bytes]:
        size = side.entry.st.st_size
        note = b"content of %d bytes is not in this patch" % size
        yield from self.notes(path, [note])

    def deleted(self, path: bytes, old: _Side) -> Iterator[bytes]:
        data = old.data()
        if data is None:
            yield from self.too_large(path, old)
            return
        yield self.head(path, path)
        yield b"deleted file mode %s\n" % old.mode
        yield from self.body(path, path, data, None)

    def created(self, path: bytes, new: _Side) -> Iterator[bytes]:
        data = new.data()
        if data is None:
            yield from self.too_large(path, new)
            return
        yield self.head(path, path)
        yield b"new file mode %s\n" % new.mode
        yield from self.body(path, path, None, data)

    def changed(self, path: bytes, old: _Side, new: _Side) -> Iterator[bytes]:
        if old.kind != new.kind:  # git, too, says it in two diffs
            yield from self.deleted(path, old)
            yield from self.created(path, new)
            return
        before, after = old.data(), new.data()
        if before is None or after is None:
            if "content" in _compared(old, new):
                yield from self.too_large(path, new)
            before = after = b""
        if before == after and old.mode == new.mode:
            return
        yield self.head(path, path)
        yield from self.modes(old, new)
        yield from self.body(path, path, before, after, _kept_mode(old, new))

    def renamed(self, old_path: bytes, path: bytes, old: _Side, new: _Side) -> Iterator[bytes]:
        same = _unread(old, new)
        before, after = (b"", b"") if same else (old.data(), new.data())
        if before is None or after is None:
            yield from self.too_large(path, new)
            before = after = b""
        yield self.head(old_path, path)
        yield from self.modes(old, new)
        yield b"similarity index %d%%\n" % _similarity(before, after)
        yield b"rename from %s\n" % gitform.quote(join(self.prefix, old_path))
        yield b"rename to %s\n" % gitform.quote(join(self.prefix, path))
        yield from self.body(old_path, path, before, after, _kept_mode(old, new))

    def modes(self, old: _Side, new: _Side) -> Iterator[bytes]:
        if old.mode != new.mode:
            yield b"old mode %s\nnew mode %s\n" % (old.mode, new.mode)

    def head(self, old: bytes, new: bytes) -> bytes:
        a, b = self.name(b"a", old), self.name(b"b", new)
        return b"diff --git %s %s\n" % (gitform.quote(a), gitform.quote(b))

    def name(self, letter: bytes, path: bytes) -> bytes:
        return letter + b"/" + join(self.prefix, path)

    def body(
        self,
        old_path: bytes,
        path: bytes,
        before: bytes | None,
        after: bytes | None,
        mode: bytes = b"",
    ) -> Iterator[bytes]:
        """Index line and content; None: there is no file on that side."""
        if before == after:
            return
        ids = [_id(before), _id(after)]
        yield b"index %s..%s%s\n" % (*ids, mode)
        old, new = before or b"", after or b""
        if old == new:
            return  # an empty file came or went
        names = [
            b"/dev/null" if data is None else gitform.side(self.name(letter, where))
            for data, letter, where in ((before, b"a", old_path), (after, b"b", path))
        ]
        if max(len(old), len(new)) > MAX_TEXT or gitform.is_binary(old) or gitform.is_binary(new):
            if self.binary:
                yield from gitform.binary(old, new)
            else:
                yield gitform.unspoken(*names)
            return
        yield b"--- %s\n+++ %s\n" % (names[0], names[1])
        yield from hunks(split(old), split(new))


def _id(data: bytes | None) -> bytes:
    return gitform.NULL_ID if data is None else gitform.blob_id(data)


def _kept_mode(old: _Side, new: _Side) -> bytes:
    """For the index line, which says so if the mode stays (GNU patch needs it for symlinks)."""
    return b" " + new.mode if old.mode == new.mode else b""


def _order(path: bytes) -> bytes:
    return path.replace(b"/", b"\0")


def _unread(old: _Side, new: _Side) -> bool:
    """Whether both sides are one base file, of which nothing need be read."""
    return old.entry.base is not None and old.entry.base == new.entry.base


def _compared(old: _Side, new: _Side) -> set[str]:
    same = old.entry.st.st_size == new.entry.st.st_size
    return set() if same and _unread(old, new) else {"content"}


def _similarity(before: bytes, after: bytes) -> int:
    """A lower bound in percent: what the two share at either end."""
    if before == after:
        return 100
    short = min(len(before), len(after))
    head = _shared(before, after, short)
    tail = _shared(before[::-1], after[::-1], short - head)
    return min(99, 100 * (head + tail) // max(len(before), len(after)))


def _shared(one: bytes, other: bytes, limit: int) -> int:
    """How many leading bytes are equal, up to ``limit``."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
