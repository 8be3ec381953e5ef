"""Parts of changes: what a patch takes of a file goes into the base, the rest stays a change.

A part is a change of its own in place of the session's: the base's bytes with the hunks that were
kept, the base's attributes with those that were.  It is put before the commit's source, so that
everything after it (staging, before-images, intent, undo) knows whole entries only; its mark in
the plan tells ``rebase`` to leave the session's version where it is, over the new base.

What has no parts (deletions, binary files, files with several names, anything that is no file)
is taken whole, or not at all: an edited section of such a thing is a Usage error.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from goexfs.errors import Limit, Usage
from goexfs.names import display
from goexfsd.commit.base import Base
from goexfsd.commit.faithful import DATA, Meta, read_meta
from goexfsd.commit.merge import Merged
from goexfsd.commit.pick import Picked, Wanted, key
from goexfsd.commit.places import Place, Places
from goexfsd.layer import gitform
from goexfsd.layer.changes import Change
from goexfsd.layer.patch import MAX_CONTENT
from goexfsd.layer.seen import resized
from goexfsd.layer.unpatch import Section, put

MAX_TOTAL = 256 << 20
"""Bytes of all parts together, which are held in memory."""
_BYTES = frozenset(("content", "target"))


class Parts:
    """Turns what was picked into what is committed."""

    def __init__(self, picked: Picked, places: Places, base: Base, source: Merged) -> None:
        self._picked, self._places = picked, places
        self._base, self._source = base, source
        self._held = 0
        self.places: set[Place] = set()
        """Where less than the session's change is committed."""

    def of(self, chosen: Sequence[Change]) -> list[Change]:
        """The chosen changes with the parts in place of those that have some."""
        found = []
        for change in chosen:
            wanted = self._picked.get(key(change))
            part = change if wanted is None else self._part(change, wanted)
            if part is not None:
                found.append(part)
        return found

    def _part(self, change: Change, wanted: Wanted) -> Change | None:
        if change.kind in ("deleted", "retyped"):
            self._whole(change, wanted.section)
            return change
        taken = {each for each in change.aspects if _taken(each, wanted)}
        data: bytes | None = None
        section = wanted.section
        if section is not None and (section.content or change.kind == "created"):
            data = self._data(change, section, taken)
        if data is None and (change.kind == "created" or taken == change.aspects):
            return change
        if change.kind != "renamed" and change.kind != "created" and not taken:
            return None
        return self._put(change, frozenset(taken), data)

    def _put(self, change: Change, taken: frozenset[str], data: bytes | None) -> Change:
        # One that has no name in the layer (its change was made under another, which is another
        # file by now) shows for as long as the base's inode has several.
        nameless = change.source is None and change.upper_ino
        if (change.links > 1 or nameless) and change.type != "dir":
            raise Usage(
                f"{display(change.path)} is one of several names of a file:"
                " such a file cannot be committed in part",
                hint="keep all of it in the patch, for every name, or nothing",
            )
        if data is None and _is_moved_file(change) and not taken & _BYTES:
            data = self._before(change)
        meta = self._meta(change, taken)
        if data is not None:
            meta = replace(meta, size=len(data))
            self._hold(len(data))
        self._source.put(change, meta, data)
        self.places.add((change.root, change.path))
        kind = change.kind
        if kind in ("modified", "metadata"):
            kind = "modified" if taken & _BYTES else "metadata"
        assert change.st is not None
        st = change.st if data is None else resized(change.st, len(data))
        return replace(change, kind=kind, aspects=taken, st=st)

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > MAX_TOTAL:
            raise Limit(
                f"the files of which hunks are taken have more than {MAX_TOTAL >> 20} MiB",
                hint="commit fewer of them at once",
            )

    def _meta(self, change: Change, taken: frozenset[str]) -> Meta:
        """The base's attributes with those taken; of what is new there are none to leave."""
        mine = self._source.meta(change)
        path = self._base_path(change)
        if change.kind == "created" or path is None:
            return mine
        meta, _ = read_meta(*self._base.at(change.root, path))
        if taken & _BYTES or "times" in taken:
            meta = replace(meta, atime_ns=mine.atime_ns, mtime_ns=mine.mtime_ns)
        if taken & _BYTES:
            meta = replace(meta, size=mine.size, target=mine.target)
        if "mode" in taken:
            meta = replace(meta, mode=mine.mode)
        if "owner" in taken:
            meta = replace(meta, uid=mine.uid, gid=mine.gid)
        if "device" in taken:
            meta = replace(meta, rdev=mine.rdev)
        return replace(meta, xattrs=mine.xattrs) if "xattrs" in taken else meta

    def _base_path(self, change: Change) -> bytes | None:
        if change.kind == "renamed":
            return change.old_path
        if change.type == "dir":
            return self._places.base_of(change.root, change.path)
        return self._places.slot_of(change.root, change.path)

    # -- bytes ----------------------------------------------------------------------------------

    def _data(self, change: Change, section: Section, taken: set[str]) -> bytes | None:
        """What is taken of the bytes; None where that is all of them, or (then ``taken`` has no
        content any more) nothing."""
        if section.binary is not None or change.type != "file":
            self._whole(change, section)
            return None
        apart = section.renamed if change.kind == "renamed" else change.kind != "retyped"
        if not apart:
            self._whole(change, section)
            return None
        mine, before = self._mine(change), b""
        if change.kind != "created":
            before = self._before(change)
        result = put(before, section.hunks, display(section.new))
        if result == mine:
            return None
        if gitform.is_binary(mine):
            _refuse(section, "it is binary")
        if result == before and change.kind != "created":
            taken -= _BYTES
            return None
        taken.add("content")
        return result

    def _whole(self, change: Change, section: Section | None) -> None:
        """Refuse a section that is not as it was printed."""
        if section is None or not section.content or section.binary == b"":
            return
        there = self._at(change.root, section.old) if not section.created else b""
        here = b"" if section.deleted else self._mine(change)
        if section.binary is not None:
            body = b"".join(gitform.binary(there, here)).partition(b"\n")[2]
            fits = section.binary == body.rstrip(b"\n")
        else:
            fits = put(there, section.hunks, display(section.new)) == here
        if not fits:
            _refuse(section, _why(change, section))

    def _mine(self, change: Change) -> bytes:
        if change.type == "symlink":
            return self._source.meta(change).target or b""
        return _read(self._source.data(change), change.path)

    def _before(self, change: Change) -> bytes:
        path = self._base_path(change)
        assert path is not None
        return _read(self._base.open(change.root, path, DATA), path)

    def _at(self, root: int, name: bytes) -> bytes:
        """What the base has at a path that the patch names."""
        path = name if len(self._base.root_fds) == 1 else name.partition(b"/")[2]
        meta, st = read_meta(*self._base.at(root, path))
        if stat.S_ISLNK(st.st_mode):
            return meta.target or b""
        return _read(self._base.open(root, path, DATA), path)


def _taken(aspect: str, wanted: Wanted) -> bool:
    return aspect in wanted.aspects or (aspect == "target" and "content" in wanted.aspects)


def _refuse(section: Section, why: str) -> NoReturn:
    raise Usage(
        f"the patch was edited at {display(section.new)}, which can only be committed whole: {why}",
        hint="keep its section as goexfs diff printed it, or take it out",
    )


def _is_moved_file(change: Change) -> bool:
    """Whether its bytes may have to be staged although the base has them."""
    return change.kind == "renamed" and change.type == "file"


def _why(change: Change, section: Section) -> str:
    if section.binary is not None:
        return "it is binary"
    if change.kind in ("deleted", "retyped"):
        return f"it is {change.kind}"
    return "it is a symlink" if change.type == "symlink" else "it took another's name"


def _read(data: int | bytes, path: bytes) -> bytes:
    if isinstance(data, int):
        with os.fdopen(data, "rb") as file:
            data = file.read(MAX_CONTENT + 1)
    if len(data) > MAX_CONTENT:
        raise Limit(f"{display(path)} is too large to be committed in part")
    return data
