"""Origins for what the kernel's overlayfs wrote: the records that the FUSE view writes itself.

The upper tree is compared with the base once after each step, and every entry that has no record
yet gets one, so that the change list, the conflict check and a commit read the layer as ever.

* What the base was like is told as it is *now*, which is right unless somebody changed it since
  the session opened.  A base file whose ctime is later than that gets a record that it cannot
  match: a conflict at commit, never a lost edit.  (A clock that is set back hides it.)
* An upper file at the place of a base file counts as its copy, unless that has several names:
  overlayfs copies up one name alone, and so a copy is another file.
* A new upper file that has size, time and bytes of a base file that is gone from its place is
  that file, renamed.
* Times count as set by the user where a file's mtime is neither its base's nor its last change.

It reads the base and the upper tree, and appends to the log; nothing else is written.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import replace

from goexfsd.layer.contents import same_bytes
from goexfsd.layer.copyup import READ, open_base
from goexfsd.layer.format import OPAQUE, is_whiteout
from goexfsd.layer.origins import NOTHING, Kind
from goexfsd.layer.tree import STAGING, Dirs, join
from goexfsd.layer.writer import Layer, in_dir
from goexfsd.worker import Root

_TICK_NS = 100_000_000
"""Two changes this close may have one time stamp."""


class Adopter:
    """One layer that overlayfs writes to."""

    def __init__(
        self, layer: Layer, roots: Sequence[Root], root_fds: Sequence[int], opened_ns: int
    ) -> None:
        """``opened_ns``: when the base was last known to be what the session sees."""
        self._layer = layer
        self._sides = [
            _Side(layer, root, fd, opened_ns) for root, fd in zip(roots, root_fds, strict=True)
        ]
        self._last = 0
        self._looked_ns = 0
        self.mutations = 0

    def adopt(self) -> int:
        """Bring the log up to the upper trees; returns a count that moves if they did."""
        now = time.time_ns()
        marks = newest = 0
        for side in self._sides:
            side.adopt()
            marks ^= side.marks
            newest = max(newest, side.newest_ns)
        self._layer.sync_records()
        if marks != self._last or newest > self._looked_ns - _TICK_NS:
            self.mutations += 1
        self._last, self._looked_ns = marks, now
        return self.mutations

    def opened(self, when_ns: int) -> None:
        """From now on what changed in the base before ``when_ns`` is what the session sees."""
        for side in self._sides:
            side.opened_ns = when_ns

    def close(self) -> None:
        for side in self._sides:
            side.close()


class _Side:
    """One root's upper tree and base."""

    def __init__(self, layer: Layer, root: Root, root_fd: int, opened_ns: int) -> None:
        self._layer, self._root, self.opened_ns = layer, root.index, opened_ns
        self._upper_fd = os.open(
            os.fsencode(root.name),
            os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW,
            dir_fd=layer.upper_fd,
        )
        self._upper, self._base = Dirs(self._upper_fd), Dirs(root_fd)
        self._gone: dict[tuple[int, int], bytes] = {}
        """(size, mtime) of base files that are gone from their place -> the path."""
        self._fresh: list[tuple[bytes, os.stat_result]] = []
        self.marks = 0
        self.newest_ns = 0

    def close(self) -> None:
        self._upper.close()
        self._base.close()
        os.close(self._upper_fd)

    def adopt(self) -> None:
        self.marks = self.newest_ns = 0
        self._fresh.clear()
        self._upper.close()
        self._base.close()
        st = os.fstat(self._upper_fd)
        if st.st_ino not in self._layer.ledger.copies:
            self._record(Kind.COPY, st.st_ino, b"", os.stat(b".", dir_fd=self._base.fd(b"")))
        self._mark(b"", st)
        stack = [(b"", True)]
        while stack:
            path, merged = stack.pop()
            for name, found in list(self._upper.scan(path)):
                child = join(path, name)
                self._mark(child, found)
                base = self._look(child) if merged else None
                if stat.S_ISDIR(found.st_mode):
                    stack.append((child, self._directory(child, found, base)))
                elif is_whiteout(found):
                    self._hide(child, base)
                else:
                    self._file(child, found, base)
        self._renames()

    def _mark(self, path: bytes, st: os.stat_result) -> None:
        self.newest_ns = max(self.newest_ns, st.st_ctime_ns)
        self.marks ^= hash((path, st.st_ino, st.st_ctime_ns, st.st_size, st.st_mode))

    def _look(self, path: bytes) -> os.stat_result | None:
        above, _, name = path.rpartition(b"/")
        if not above and name.startswith(STAGING):
            return None
        try:
            return os.stat(name, dir_fd=self._base.fd(above), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _directory(self, path: bytes, st: os.stat_result, base: os.stat_result | None) -> bool:
        """Whether the base directory shows through."""
        above, _, name = path.rpartition(b"/")
        place = in_dir(self._upper.fd(above), name)
        if base is None or not stat.S_ISDIR(base.st_mode) or _is_opaque(place):
            self._hide(path, base)
            return False
        if st.st_ino not in self._layer.ledger.copies:
            self._record(Kind.COPY, st.st_ino, path, base)
        return True

    def _file(self, path: bytes, st: os.stat_result, base: os.stat_result | None) -> None:
        known = st.st_ino in self._layer.ledger.copies
        if base is None or stat.S_IFMT(base.st_mode) != stat.S_IFMT(st.st_mode):
            self._hide(path, base)
            if not known and stat.S_ISREG(st.st_mode) and st.st_nlink == 1:
                self._fresh.append((path, st))
        elif base.st_nlink > 1 or st.st_nlink > 1:
            self._hide(path, base)
        elif not known:
            self._record(Kind.COPY, st.st_ino, path, base)
        if base is not None and stat.S_ISREG(st.st_mode):
            self._times(st, base)

    def _times(self, st: os.stat_result, base: os.stat_result) -> None:
        was_set = st.st_mtime_ns not in (base.st_mtime_ns, st.st_ctime_ns)
        if was_set and st.st_ino not in self._layer.ledger.timed:
            self._layer.record(Kind.TIMES, self._root, st.st_ino, b"", NOTHING)

    def _hide(self, path: bytes, base: os.stat_result | None) -> None:
        """A base entry, and all that is in it, shows no more."""
        if base is None:
            return
        pending = [(path, base)]
        while pending:
            here, st = pending.pop()
            if stat.S_ISREG(st.st_mode) and st.st_nlink == 1:
                self._gone[st.st_size, st.st_mtime_ns] = here
            if self._layer.ledger.has_seen(self._root, here):
                continue
            self._record(Kind.HIDE, 0, here, st)
            if stat.S_ISDIR(st.st_mode):
                with contextlib.suppress(FileNotFoundError, PermissionError):
                    pending += [(join(here, name), st) for name, st in self._base.scan(here)]

    def _record(self, kind: Kind, ino: int, path: bytes, base: os.stat_result) -> None:
        identity = self._layer.identity(self._root, base)
        if base.st_ctime_ns > self.opened_ns and not stat.S_ISDIR(base.st_mode):
            identity = replace(identity, ctime_ns=0)  # matches nothing: a conflict
        self._layer.record(kind, self._root, ino, path, identity)

    def _renames(self) -> None:
        for path, st in self._fresh:
            source = self._gone.get((st.st_size, st.st_mtime_ns))
            if source is None or not st.st_size:
                continue
            base = self._look(source)
            if base is not None and self._same(path, source, st.st_size):
                self._record(Kind.COPY, st.st_ino, source, base)

    def _same(self, path: bytes, source: bytes, size: int) -> bool:
        try:
            one = _open(self._upper, path)
            try:
                other = _open(self._base, source)
                try:
                    return same_bytes(one, other, size, sparse=False)
                finally:
                    os.close(other)
            finally:
                os.close(one)
        except OSError:
            return False


def _open(dirs: Dirs, path: bytes) -> int:
    above, _, name = path.rpartition(b"/")
    return open_base(name, dirs.fd(above), READ)


def _is_opaque(place: bytes) -> bool:
    try:
        return os.getxattr(place, OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
