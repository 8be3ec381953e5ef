"""Two versions of one entry made into one: its attributes here, its text by git.

The third version is what the session saw: the origins log has its attributes, the layer's
``originals`` the bytes of small files.  What only one side changed is that side's; what both
changed alike is so; text that both changed goes through ``git merge-file``, which runs with the
owner's rights, without configuration, and sees nothing but the three texts.  What is left is no
merge, and the conflict stands, with the reason.

It changes nothing: a merged entry is what ``Merged`` gives out in place of the layer's.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from goexfsd.commit.base import Base
from goexfsd.commit.conflicts import Checker, Conflict
from goexfsd.commit.faithful import DATA, Meta, read_meta
from goexfsd.commit.places import Places, ancestors
from goexfsd.commit.resolve import Verdict
from goexfsd.commit.source import Source
from goexfsd.layer.changes import Change, Root
from goexfsd.layer.originals import LIMIT
from goexfsd.layer.origins import Identity
from goexfsd.layer.seen import Seen

_GITS = ("/usr/bin/git", "/usr/local/bin/git", "/bin/git")
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/nonexistent",
    "LC_ALL": "C",
    "GIT_DIR": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}
_SECONDS = 60
_SNIFFED = 8000
_KEPT = f"only files up to {LIMIT // 1024} KiB are kept for merging"

_CONTENT = frozenset(("content", "target", "device"))
_OURS = _CONTENT | {"times"}
T = TypeVar("T")

First = Callable[[int, bytes, Identity], bytes | None]
"""The bytes that a base file had (root, path, identity) when the session saw it."""


class Merged(Source):
    """The layer that is committed, with merged entries in it."""

    def __init__(
        self,
        layer_fd: int,
        roots: Sequence[Root],
        changes: Iterable[Change],
        seen: Mapping[int, Seen],
    ) -> None:
        super().__init__(layer_fd, roots, changes, seen)
        self._merged: dict[tuple[int, bytes], tuple[Meta, bytes | None]] = {}

    def put(self, change: Change, meta: Meta, data: bytes | None) -> None:
        """From now on the entry of ``change`` has these attributes, and these bytes if given."""
        self._merged[change.root, change.path] = meta, data

    def meta(self, change: Change) -> Meta:
        known = self._merged.get((change.root, change.path))
        return super().meta(change) if known is None else known[0]

    def data(self, change: Change) -> int | bytes:
        known = self._merged.get((change.root, change.path))
        if known is None or known[1] is None:
            return super().data(change)
        return known[1]


class Merger:
    """Merges changes in conflict; ``resolve.Merge``."""

    def __init__(
        self,
        places: Places,
        checker: Checker,
        base: Base,
        source: Merged,
        first: First,
    ) -> None:
        self._places, self._checker, self._base = places, checker, base
        self._source, self._first = source, first

    def __call__(self, change: Change, conflict: Conflict) -> Verdict | str:
        if change.kind == "deleted":
            return self._deleted(change)
        if conflict.reason == "parent":
            return "its directory is another one now"
        for path, origin in self._checker.touched(change):
            if path != conflict.at and self._checker.entry(change, path, origin) is not None:
                return "its old and its new name are both in conflict"
        if change.kind == "renamed" and conflict.at != change.old_path:
            return "there is something under its new name"
        return self._entry(change, conflict.at)

    def _deleted(self, change: Change) -> Verdict | str:
        if change.origin is not None:
            return "the session deletes it"
        for above in ancestors(change.path):
            instead = self._places.at.get((change.root, above))
            if instead is not None and instead.kind == "retyped":
                return f"the session has a {instead.type} in place of its directory"
        return Verdict(None, "what the session never saw stays")

    def _entry(self, change: Change, path: bytes) -> Verdict | str:
        st = self._base.lstat(change.root, path)
        if change.st is None or stat.S_IFMT(st.st_mode) != stat.S_IFMT(change.st.st_mode):
            return "the two are of different types"
        origin = change.origin or self._checker.shared(change, st)
        theirs = self._theirs(change, path)
        mine = self._source.meta(change)
        now = Identity.of(st, self._base.root_devs[change.root])
        meta = _attributes(mine, theirs, origin)
        if isinstance(meta, str):
            return meta
        if stat.S_ISDIR(st.st_mode):
            ours = change.aspects & _OURS
            return self._verdict(change, meta, theirs, None, "attributes of both sides", ours)
        if not stat.S_ISREG(st.st_mode) and origin is not None and _same_inode(origin, now):
            how = "the base changed attributes or links only"
            return self._verdict(change, meta, theirs, None, how, change.aspects & _OURS)
        if not stat.S_ISREG(st.st_mode):
            return f"a {conflict_type(st.st_mode)} cannot be merged"
        return self._file(change, path, origin, meta, theirs)

    def _theirs(self, change: Change, path: bytes) -> Meta:
        return read_meta(*self._base.at(change.root, path))[0]

    # -- files --------------------------------------------------------------------------------

    def _file(
        self, change: Change, path: bytes, origin: Identity | None, meta: Meta, theirs: Meta
    ) -> Verdict | str:
        before = b"" if origin is None else self._first(change.root, path, origin)
        if before is None or theirs.size > LIMIT:
            return f"what the session saw of it was not kept ({_KEPT})"
        other = _read(self._base.open(change.root, path, DATA))
        if other == before:
            how = "the base changed attributes or links only"
            return self._verdict(change, meta, theirs, None, how, change.aspects & _OURS)
        if self._source.meta(change).size > LIMIT:
            return _KEPT
        mine = _read(self._source.data(change))
        if mine in (other, before):
            data, how = other, "the session changed attributes or names only"
        else:
            merged = merge_text(mine, before, other)
            if isinstance(merged, str):
                return merged
            data, how = merged, "texts of both sides merged"
        result = replace(meta, size=len(data))
        if data == other:
            result = replace(result, atime_ns=theirs.atime_ns, mtime_ns=theirs.mtime_ns)
        elif data != mine:
            now = time.time_ns()
            result = replace(result, atime_ns=now, mtime_ns=now)
        ours = frozenset(()) if data == other else frozenset(("content",))
        return self._verdict(change, result, theirs, data, how, ours)

    def _verdict(
        self,
        change: Change,
        meta: Meta,
        theirs: Meta,
        data: bytes | None,
        how: str,
        ours: frozenset[str],
    ) -> Verdict:
        aspects = set(ours)
        if stat.S_IMODE(meta.mode) != stat.S_IMODE(theirs.mode):
            aspects.add("mode")
        if (meta.uid, meta.gid) != (theirs.uid, theirs.gid):
            aspects.add("owner")
        if "links" in change.aspects:
            aspects.add("links")
        if change.kind != "renamed" and not aspects:
            return Verdict(None, f"{how}; the base has it all")
        self._source.put(change, meta, data)
        kind = change.kind
        if kind in ("modified", "metadata"):
            kind = "modified" if aspects & _CONTENT else "metadata"
        return Verdict(replace(change, kind=kind, aspects=frozenset(aspects)), how)


def conflict_type(mode: int) -> str:
    return "symlink" if stat.S_ISLNK(mode) else "special file"


def _same_inode(one: Identity, two: Identity) -> bool:
    """Of what is no file, and so cannot be written to."""
    return (one.dev, one.ino, one.rdev) == (two.dev, two.ino, two.rdev)


def _attributes(mine: Meta, theirs: Meta, origin: Identity | None) -> Meta | str:
    """Mode, owner and extended attributes of both sides; why not, if they cannot be."""
    if mine.xattrs != theirs.xattrs:
        return "its extended attributes or ACLs differ"
    was = None if origin is None else stat.S_IMODE(origin.mode)
    mode = _third(was, stat.S_IMODE(mine.mode), stat.S_IMODE(theirs.mode))
    owner = None if origin is None else (origin.uid, origin.gid)
    owners = _third(owner, (mine.uid, mine.gid), (theirs.uid, theirs.gid))
    if mode is None:
        return "both sides changed its mode" if origin else "its modes differ"
    if owners is None:
        return "both sides changed its owner" if origin else "its owners differ"
    kind = stat.S_IFMT(mine.mode)
    return replace(mine, mode=kind | mode, uid=owners[0], gid=owners[1])


def _third(before: T | None, mine: T, theirs: T) -> T | None:
    """What two sides made of one value; None if they disagree."""
    if mine == theirs or theirs == before:
        return mine
    return theirs if mine == before else None


def _read(data: int | bytes) -> bytes:
    if isinstance(data, bytes):
        return data[: LIMIT + 1]
    with os.fdopen(data, "rb") as file:
        return file.read(LIMIT + 1)


def _memory(data: bytes) -> int:
    fd = os.memfd_create("merged", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def merge_text(mine: bytes, before: bytes, theirs: bytes) -> bytes | str:
    """The three-way merge of three texts; why not, if there is none."""
    if any(b"\0" in side[:_SNIFFED] for side in (mine, before, theirs)):
        return "it is not text"
    git = next((path for path in _GITS if os.access(path, os.X_OK)), None)
    if git is None:
        return "git is not installed"
    fds = [_memory(side) for side in (mine, before, theirs)]
    try:
        return _git(git, fds)
    finally:
        for fd in fds:
            os.close(fd)


def _git(git: str, fds: list[int]) -> bytes | str:
    sides = [f"/proc/self/fd/{fd}" for fd in fds]
    try:
        done = subprocess.run(
            [git, "merge-file", "-p", "-q", *sides],
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=fds,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "git merge-file could not be run"
    if done.returncode == 0:
        return done.stdout
    if 0 < done.returncode < 128:
        count = done.returncode
        return f"{count} place{'s' if count > 1 else ''} changed on both sides"
    return "git merge-file failed"
