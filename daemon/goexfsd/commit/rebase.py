"""After a partial commit: the session goes on, over the base as it is now.

What was committed is taken out of the layer, so that the base shows through: files leave the
upper tree (those committed in part stay, as changes of what the base has now), directories that
the session made or renamed become ordinary merged ones, whiteouts over nothing go.  The origins
log is written anew: committed entries are forgotten, paths below renamed directories follow
them, and inodes that the commit touched get the identity they have now, so that a later commit
does not take our own work for somebody else's.

May be cut off and be done again, to the same layer or to another snapshot of it: the tree's part
is idempotent, and the log's seal tells whether it is the new one.  Nothing else may write to the
layer meanwhile; a view that shows it must be told afterwards (``rewind``).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from typing import Any

from goexfsd import kernel
from goexfsd.commit import intent
from goexfsd.commit.base import Base
from goexfsd.commit.faithful import proc
from goexfsd.commit.faults import fault
from goexfsd.commit.places import covers, join
from goexfsd.commit.plan import Mark, Plan
from goexfsd.commit.stage import listing
from goexfsd.layer import reads
from goexfsd.layer.changes import Root
from goexfsd.layer.format import INDEX, OPAQUE, ORIGINS, REDIRECT, UPPER, is_whiteout
from goexfsd.layer.origins import Identity, Kind, Record, encode, load

_REBASED = b"rebased"
_SEEN = (Kind.COPY, Kind.HIDE, Kind.ALIAS)


def rebase(
    live: int, before: int, plan: Plan, roots: Sequence[Root], root_fds: Sequence[int]
) -> None:
    """Take what ``plan`` committed out of the layer ``live``.  Durable when it returns."""
    base = Base(root_fds)
    try:
        kept = [record for root in roots for record in _Upper(live, root, plan, base).clear()]
        _clear_index(live, plan)
        fault("rebase.cleared")
        log = _Log(plan, base, kept)
        _rewrite(live, before, log)
        fault("rebase.reads")
        reads.forget(live, log.still_read)
        kernel.syncfs(live)
    finally:
        base.close()


def _rewrite(live: int, before: int, log: _Log) -> None:
    """Put the new log in place, unless a run that was cut off has done so.

    Whether it has is told by the logs themselves: paths must not be moved along twice.
    """
    records, good = load(live, ORIGINS)
    now = _read(live)[:good]
    for line in intent.read(before, _REBASED) or ():
        if _begins(now, line["to"]) and not _begins(now, line["from"]):
            return
    new = b"".join(map(encode, log.rewritten(records)))
    intent.write(before, _REBASED, [{"from": _seal(now), "to": _seal(new)}])
    fault("rebase.log")
    _install(live, new)


def _seal(log: bytes) -> list[int | str]:
    return [len(log), hashlib.sha256(log).hexdigest()]


def _begins(log: bytes, seal: list[Any]) -> bool:
    """Whether ``log`` is the sealed one, perhaps with records after it."""
    return len(log) >= seal[0] and _seal(log[: seal[0]]) == seal


def _read(live: int) -> bytes:
    fd = os.open(ORIGINS, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=live)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _install(live: int, log: bytes) -> None:
    aside = ORIGINS + b".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(aside, flags, 0o600, dir_fd=live), "wb") as file:
        file.write(log)
        file.flush()
        os.fsync(file.fileno())
    fault("rebase.install")
    os.rename(aside, ORIGINS, src_dir_fd=live, dst_dir_fd=live)


def _committed_files(plan: Plan, root: int) -> set[int]:
    marks = (mark for mark in plan.marks if mark.root == root and mark.type != "dir")
    return {mark.upper_ino for mark in marks if mark.upper_ino and not mark.part}


def _parts(plan: Plan, root: int) -> set[int]:
    """Files that stay in the layer, for only a part of them was committed."""
    marks = (mark for mark in plan.marks if mark.root == root and mark.type != "dir")
    return {mark.upper_ino for mark in marks if mark.part}


def _clear_index(live: int, plan: Plan) -> None:
    """Forget the copies of several-named files that were committed."""
    gone = {
        ino for root in {mark.root for mark in plan.marks} for ino in _committed_files(plan, root)
    }
    fd = kernel.open_beneath(live, INDEX, os.O_PATH | os.O_DIRECTORY)
    try:
        for name, st in listing(fd):
            if st.st_ino in gone:
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)


class _Upper:
    """The upper tree of one root."""

    def __init__(self, live: int, root: Root, plan: Plan, base: Base) -> None:
        self._root, self._base = root.index, base
        self._top = kernel.open_beneath(
            live, UPPER + b"/" + os.fsencode(root.name), os.O_PATH | os.O_DIRECTORY
        )
        self._files = _committed_files(plan, root.index)
        self._parts = _parts(plan, root.index)
        self._dirs = {
            mark.path: mark
            for mark in plan.marks
            if mark.root == root.index and mark.type == "dir" and mark.kind != "deleted"
        }

    def clear(self) -> list[Record]:
        """Remove what was committed; returns COPY records for what has to stay."""
        found: list[Record] = []
        below = [(b"", True)]
        try:
            for path, merged in below:  # grows while it is read
                below += self._directory(path, merged, found)
        finally:
            os.close(self._top)
        return found

    def _directory(
        self, path: bytes, merged: bool, found: list[Record]
    ) -> list[tuple[bytes, bool]]:
        fd = kernel.open_dir_beneath(self._top, path)
        try:
            merged = self._opened(fd, path, merged, found)
            deeper = []
            for name, st in listing(fd):
                here = join(path, name)
                if stat.S_ISDIR(st.st_mode):
                    deeper.append((here, merged))
                elif is_whiteout(st):
                    if merged and self._base.look(self._root, here) is None:
                        fault("rebase.whiteout")
                        os.unlink(name, dir_fd=fd)
                elif st.st_ino in self._files:
                    if merged:
                        fault("rebase.file")
                        os.unlink(name, dir_fd=fd)
                    else:
                        self._stays(here, st.st_ino, found)
                elif st.st_ino in self._parts:
                    self._stays(here, st.st_ino, found)
            return deeper
        finally:
            os.close(fd)

    def _opened(self, fd: int, path: bytes, merged: bool, found: list[Record]) -> bool:
        """Make a committed directory an ordinary one; whether names below it mean the base's
        names of the same path."""
        mark = self._dirs.get(path)
        marks = {os.fsencode(name) for name in os.listxattr(proc(fd))}
        if mark is not None and mark.kind in ("created", "renamed", "retyped"):
            for name in marks & {OPAQUE, REDIRECT}:
                fault("rebase.directory")
                os.removexattr(proc(fd), name)
            marks -= {OPAQUE, REDIRECT}
        if mark is not None and (mark.upper_ino or mark.kind == "created"):
            self._stays(path, os.fstat(fd).st_ino, found)
        return merged and not marks & {OPAQUE, REDIRECT}

    def _stays(self, path: bytes, upper_ino: int, found: list[Record]) -> None:
        st = self._base.look(self._root, path)
        if st is not None:
            identity = Identity.of(st, self._base.root_devs[self._root])
            found.append(Record(Kind.COPY, self._root, 0, upper_ino, path, identity))


class _Log:
    """The origins after the commit."""

    def __init__(self, plan: Plan, base: Base, kept: list[Record]) -> None:
        self._base, self._kept = base, kept
        self._renamed = [
            mark for mark in plan.marks if mark.kind == "renamed" and mark.type == "dir"
        ]
        self._done = {(mark.root, mark.old_path or mark.path) for mark in plan.marks}
        self._done |= {(mark.root, mark.path) for mark in plan.marks}
        whole = [mark for mark in plan.marks if not mark.part]
        self._gone = {(mark.root, mark.upper_ino) for mark in whole if mark.upper_ino}
        touched = {(node.root, node.ino) for node in plan.nodes}
        self._touched = touched | set(plan.taken)

    def rewritten(self, records: list[Record]) -> list[Record]:
        """What stays valid of the old log, in its order, and the new records before it."""
        found = list(self._kept)
        for record in records:
            gone = (record.root, record.upper_ino) in self._gone
            if record.kind not in _SEEN:
                if not gone or record.kind is Kind.MODE:
                    found.append(record)
            elif gone and record.kind is not Kind.HIDE:
                continue
            elif (record.root, record.path) not in self._done:
                # Also of a file that was committed elsewhere: that it went from here was not.
                found.append(self._fresh(record))
        return found

    def still_read(self, place: reads.Place, version: reads.Version) -> bool:
        """Whether what a script read was not changed by the commit itself."""
        root, path = place
        moved = any(
            mark.root == root and mark.old_path is not None and covers(mark.old_path, path)
            for mark in self._renamed
        )
        return not moved and place not in self._done and (root, version[1]) not in self._touched

    def _fresh(self, record: Record) -> Record:
        path = self._moved(record)
        identity = record.identity
        if (record.root, identity.ino) in self._touched and not identity.dev:
            st = self._base.look(record.root, path)
            if st is not None and st.st_ino == identity.ino:
                identity = Identity.of(st, self._base.root_devs[record.root])
        return Record(record.kind, record.root, record.step, record.upper_ino, path, identity)

    def _moved(self, record: Record) -> bytes:
        """The base path after the commit's directory renames."""
        nearest: Mark | None = None
        for mark in self._renamed:
            old = mark.old_path
            if mark.root != record.root or old is None or not covers(old, record.path):
                continue
            if nearest is None or len(old) > len(nearest.old_path or b""):
                nearest = mark
        if nearest is None or nearest.old_path is None:
            return record.path
        return nearest.path + record.path[len(nearest.old_path) :]
