"""Handlers for directories: opendir, readdir (always with attributes), releasedir, fsyncdir.

An open directory lists the names that were there when it was opened or rewound; an offset is a
position in that list, so it stays good however the directory changes: no entry comes twice, and
none is lost that stood throughout.  What has vanished since is left out.

The kernel may keep what a directory held, and list it again without asking, as long as
``as_listed`` says so when it is opened: what the session changes in it the kernel sees itself,
and what others change in a live base shows within a second.  It keeps one listing, the newest,
and goes on in that with whoever began in an older one: so a name has the same position in all
listings of a directory (``Node.order``).  Only where much has gone are the positions given anew.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable

import pyfuse3
from pyfuse3 import ReaddirToken

from goexfsd.layer.copyup import open_base
from goexfsd.layer.writer import fd_path
from goexfsd.view import wire
from goexfsd.view.data import nothing
from goexfsd.view.handling import Context, as_entry, handler, in_thread
from goexfsd.view.metadata import Metadata
from goexfsd.view.node import Held, Node, base_number
from goexfsd.view.places import FRESH_NS
from goexfsd.view.tree import Tree

_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_ENTRY = bytes(wire.ENTRY_OUT.size)
_DIRECTORY, _FILE, _LINK = 4, 8, 10  # DT_DIR, DT_REG, DT_LNK
_SELF = (b".", b"..")
_HOLES = 64
_KIND = 0o170000
_PLUS = wire.ENTRY_OUT.size + wire.DIRENT.size
_PAD = [bytes(count) for count in range(8)]

_dirent = wire.DIRENT.pack

Told = tuple[bytes, int, int]
"""An ``entry_out``, an inode number and a type (DT_*)."""


class Listing:
    """One open directory."""

    __slots__ = ("names", "node", "types")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.names: list[bytes | None] | None = None
        self.types: dict[bytes, tuple[int, int]] | None = None
        """Of a directory that may be read and not entered: each name's number and type."""


class Directories(Metadata):
    """opendir … fsyncdir."""

    def __init__(self) -> None:
        super().__init__()
        self.listings: dict[int, Listing] = {}
        self._next_listing = 1

    @handler
    def opendir(self, inode: int, ctx: Context) -> int:
        node = self.known(inode)
        if not node.gone:
            self.tree.merged_fd(node)  # an ESTALE is seen here: the kernel looks up again
        return self.begin_listing(node)

    def begin_listing(self, node: Node) -> int:
        """The handle of a directory that is opened."""
        number = self._next_listing
        self._next_listing += 1
        self.listings[number] = Listing(node)
        node.opens += 1
        return number

    # -- what the kernel may keep ------------------------------------------------------------------

    def as_listed(self, node: Node) -> bool:
        """Whether a directory still holds what the kernel was last told that it does."""
        listed = node.listed
        if listed is None or node.gone:
            return False
        lives = node.lower and node.watch <= 0 and not self.tree.stable[node.root]
        if lives and time.monotonic_ns() - listed.when >= FRESH_NS:
            return False
        return self._held(node) == listed.parts

    def _held(self, node: Node) -> tuple[int, ...]:
        """What tells one state of a directory from another."""
        parts: tuple[int, ...] = ()
        if node.upper:
            st = os.fstat(self.tree.upper_fd(node))
            parts = (st.st_ino, st.st_mtime_ns, st.st_ctime_ns)
        at = self.tree.merged_fd(node)
        if at >= 0:
            st = os.fstat(at)
            parts += (st.st_dev, st.st_ino, st.st_mtime_ns, st.st_ctime_ns)
        return parts

    def listed(self, listing: Listing, offset: int) -> list[bytes | None]:
        """The names of an open directory, by position, looked at anew from its beginning; None
        where there is none any more."""
        node = listing.node
        if listing.names is None or offset == 0:
            listing.types = None
            if not node.watch:
                self.tree.watch(node)
            when = time.monotonic_ns()
            held = () if node.gone or node.root < 0 else self._held(node)
            listing.names = node.order = in_order(node.order, self.tree.names(node))
            node.listed = Held(when, held)
        return listing.names

    # -- entries -----------------------------------------------------------------------------------

    def told_of(self, listing: Listing, name: bytes) -> Told | None:
        """What the kernel is told of one name, which it then knows; None if it is gone."""
        node = listing.node
        try:
            found = self._look(node, name)
        except PermissionError:
            if listing.types is None:
                listing.types = self._types(node)
            number, kind = listing.types.get(name, (node.id, 0))
            return _NO_ENTRY, number, kind
        if found is None:
            return None
        child, entry = found
        if entry is not _NO_ENTRY:
            child.lookups += 1
        return entry, child.id, child.kind >> 12

    def fill(self, listing: Listing, offset: int, room: int) -> bytes:
        """What ``readdirplus`` answers: entries from ``offset`` on, as many as fit."""
        names = self.listed(listing, offset)
        pieces: list[bytes] = []
        told = self._quick(listing.node) or functools.partial(self.told_of, listing)
        at = offset
        for name in names[offset:]:
            at += 1
            if name is None:
                continue
            length = len(name)
            room -= _PLUS + (length + 7 & ~7)
            if room < 0:
                break
            try:
                found = told(name)
            except OSError:
                if not pieces:
                    raise
                break  # what is told already counts; the next request meets the same
            if found is not None:
                entry, number, kind = found
                pieces += (entry, _dirent(number, at, length, kind), name, _PAD[-length & 7])
        return b"".join(pieces)

    def _quick(self, node: Node) -> Callable[[bytes], Told | None] | None:
        """``told_of`` for a directory that shows the base alone, without rules: for most."""
        tree = self.tree
        if node.upper or node.root < 0 or node.gone or type(tree) is not Tree:
            return None
        if tree.is_root(node):
            return None  # names that a commit uses are hidden there
        try:
            fd = tree.lower_fd(node)
            os.stat(b".", dir_fd=fd)  # may it be entered?
        except OSError:
            return None
        lowers, root, entry = tree.table.lowers, node.root, self.attributes.entry

        def told(name: bytes) -> Told | None:
            try:
                st = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                return None
            if name in _SELF:
                return _NO_ENTRY, node.id, _DIRECTORY
            child = lowers.get((root, st.st_dev, st.st_ino))
            if (
                child is None
                or child.parent is not node
                or child.name != name
                or child.kind != st.st_mode & _KIND
            ):
                child = tree.node(node, name, st, False)
            if child.upper:
                st = tree.status(child)
            packed = entry(child, st, False)
            child.lookups += 1
            return packed, child.id, child.kind >> 12

        return told

    def _look(self, node: Node, name: bytes) -> tuple[Node, bytes] | None:
        """An entry of a directory that may be read, but perhaps not entered."""
        if name in _SELF:
            return node if name == b"." else node.parent or node, _NO_ENTRY
        if node.root < 0:
            child = next(root for root in self.tree.roots if root.name == name)
            return child, self.attributes.entry(child, self.status(child), True)
        try:
            return self._child(node, name)
        except PermissionError:
            if not node.upper:
                raise
            with self.tree.lent(node):
                return self._child(node, name)

    def _child(self, node: Node, name: bytes) -> tuple[Node, bytes] | None:
        found = self.tree.find(node, name)
        if found is None:
            return None
        st, upper = found
        child = self.tree.node(node, name, st, upper)
        if child.upper != upper:
            st = self.tree.status(child)
        return child, self.attributes.entry(child, st, upper)

    def _types(self, node: Node) -> dict[bytes, tuple[int, int]]:
        """Number and type of each entry, as far as reading the base directory tells."""
        fd = open_base(fd_path(self.tree.merged_fd(node)), None, _LIST)
        found = {}
        try:
            dev = os.fstat(fd).st_dev
            with os.scandir(fd) as entries:
                for entry in entries:
                    key = (node.root, dev, entry.inode())
                    number = base_number(key, self.tree.root_devs[node.root])
                    found[os.fsencode(entry.name)] = number, _type(entry)
        finally:
            os.close(fd)
        return found

    @handler
    def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        listing = self.listings[fh]
        names = self.listed(listing, start_id)
        for at in range(start_id, len(names)):
            name = names[at]
            if name is not None and not self._tell(listing, name, token, at + 1):
                break

    def _tell(self, listing: Listing, name: bytes, token: ReaddirToken, following: int) -> bool:
        """One entry into pyfuse3's reply; False if it did not fit."""
        found = self._look(listing.node, name)
        if found is None:
            return True
        child, packed = found
        if packed is _NO_ENTRY:
            packed = self.attributes.entry(child, self.status(child), False)
            return pyfuse3.readdir_reply(token, name, as_entry(packed), following)
        if pyfuse3.readdir_reply(token, name, as_entry(packed), following):
            child.lookups += 1
            return True
        self.tree.table.collect(child)
        return False

    @handler
    def releasedir(self, fh: int) -> None:
        self.end_listing(fh)

    def end_listing(self, fh: int) -> None:
        """The handle is closed."""
        node = self.listings.pop(fh).node
        node.opens -= 1
        self.tree.table.collect(node)

    @in_thread
    def fsyncdir(self, fh: int, datasync: bool) -> Callable[[], None]:
        node = self.listings[fh].node
        if not node.upper or node.gone:
            return nothing
        fd = os.open(b".", _LIST, dir_fd=self.tree.upper_fd(node))
        return self._syncing(fd, datasync)


def in_order(before: list[bytes | None] | None, names: list[bytes]) -> list[bytes | None]:
    """``names``, where those that were there before have the position that they had."""
    fresh: list[bytes | None] = [*_SELF, *names]
    if before is None or len(before) > 2 * len(fresh) + _HOLES:
        return fresh
    if before == fresh:
        return before
    known, now = set(before), set(fresh)
    if known == now and len(known) == len(before):
        return before
    kept = [name if name in now else None for name in before]
    return [*kept, *(name for name in fresh if name not in known)]


def _type(entry: os.DirEntry[str]) -> int:
    """DT_*, where the directory itself says it; 0 is unknown."""
    try:
        if entry.is_symlink():
            return _LINK
        if entry.is_dir(follow_symlinks=False):
            return _DIRECTORY
        return _FILE if entry.is_file(follow_symlinks=False) else 0
    except OSError:
        return 0
