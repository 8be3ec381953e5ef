"""The merged tree of one root, read only: an upper tree over the base, or the base alone.

The upper tree is read once, whole, into memory (it is as large as the change); of the base only
what is asked for is looked at.  Everything is reached relative to directory descriptors, one
name at a time, so that no symlink is ever followed, and paths may be longer than PATH_MAX.
Nothing but a regular file is ever opened for reading, and that without blocking.

The base may change while we read: an entry that vanishes is absent, no more.  It knows the
layer's format, but not what a change is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from goexfs.errors import Denied, Limit, StoreFailed
from goexfs.names import display
from goexfsd import kernel
from goexfsd.layer.format import (
    ACCESS_ACL,
    INDEX,
    OPAQUE,
    REDIRECT,
    UPPER,
    acl_with_mode,
    is_whiteout,
    unescape_xattr,
)
from goexfsd.layer.seen import Inode, Seen

STAGING = b".goexfs-stage-"
"""Names that begin so, directly in the base's root, are a commit's own; no view shows them."""

MAX_PATH = 64 * 1024
"""Bytes of a path in a layer; deeper nesting is refused (each change carries its whole path)."""

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTENT = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = (FileNotFoundError, NotADirectoryError)

Key = bytes | int
"""A directory's identity over renames: its path in the base, or its upper inode if created."""


class Dirs:
    """Directories below a fixed one, kept open while they are in use: a small LRU."""

    __slots__ = ("_last", "_last_fd", "_open", "_root")

    _KEPT = 48

    def __init__(self, root_fd: int) -> None:
        """``root_fd`` stays the caller's."""
        self._root = root_fd
        self._open: dict[bytes, int] = {}
        self._last = b""
        self._last_fd = root_fd

    def fd(self, path: bytes) -> int:
        """A descriptor of the directory ``path``, good until the next call."""
        if path == self._last:
            return self._last_fd
        if not path:
            return self._root
        fd = self._open.pop(path, None)
        if fd is None:
            fd = self._reach(path)
            if len(self._open) >= self._KEPT:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = fd
        self._last, self._last_fd = path, fd
        return fd

    def _reach(self, path: bytes) -> int:
        parent, _, name = path.rpartition(b"/")
        near = self._open.get(parent) if parent else self._root
        if near is None:
            return kernel.open_dir_beneath(self._root, path)
        return os.open(name, _DIRECTORY, dir_fd=near)

    def list(self, path: bytes) -> list[os.DirEntry[str]]:
        """The directory's entries; their ``stat`` works until the next call only."""
        fd = os.open(b".", _LIST, dir_fd=self.fd(path))
        try:
            with os.scandir(fd) as found:
                return list(found)
        finally:
            os.close(fd)

    def scan(self, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
        """Name and attributes of each entry of the directory."""
        fd = os.open(b".", _LIST, dir_fd=self.fd(path))
        try:
            with os.scandir(fd) as found:
                for entry in found:
                    try:
                        yield os.fsencode(entry.name), entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # a live layer
        finally:
            os.close(fd)

    def inodes(self, path: bytes) -> Iterator[tuple[bytes, int]]:
        """Name and inode number of each entry of the directory."""
        for entry in self.list(path):
            yield os.fsencode(entry.name), entry.inode()

    def close(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        self._last, self._last_fd = b"", self._root


@dataclass(slots=True)
class Node:
    """An entry of the upper tree."""

    path: bytes
    st: os.stat_result
    """Mode and owner as shown."""
    lower: bytes | None = None
    """Directories: the base directory that shows through."""
    key: Key = 0
    """Directories."""
    bare: bool = False
    """A merged directory that was never copied up: its attributes are the base's."""
    children: dict[bytes, Node | None] | None = None
    """Directories: by name; None is a whiteout."""


@dataclass(slots=True)
class Entry:
    """An entry of the view; never changed once made (frozen would cost as much as the lstat)."""

    path: bytes
    st: os.stat_result
    node: Node | None
    """Its upper entry."""
    base: bytes | None
    """Where its attributes and content are in the base; None: they are in the layer."""
    lower: bytes | None = None
    """Directories: the base directory that shows through."""
    key: Key = 0
    index: bytes | None = None
    """A base file with several names, copied up under another of them: its name in index/."""

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.st.st_mode)


class Tree:
    """One root's view."""

    def __init__(
        self,
        layer_fd: int | None,
        root: int,
        name: str,
        root_fd: int,
        seen: Seen | None = None,
        *,
        tick: Callable[[], None] | None = None,
    ) -> None:
        """Read the upper tree; ``layer_fd`` None is the base alone.

        Raises Denied if part of the layer cannot be read, StoreFailed if it is damaged, Limit
        if it is nested beyond MAX_PATH.
        """
        self.root_index = root
        self.root_name = name
        self.seen = seen or Seen()
        self.layered = layer_fd is not None
        self.base_dev = os.stat(b".", dir_fd=root_fd).st_dev
        self._base = Dirs(root_fd)
        self._tick = tick or (lambda: None)
        self._by_lower: dict[bytes, Node] = {}
        self._by_ino: dict[int, Node] = {}
        self._placed: dict[bytes, Entry | None] = {}
        self._moved: dict[bytes, bytes] = {}
        self.several: dict[int, list[Node]] = {}
        """Upper inodes with several names -> their entries in the upper tree."""
        self.newest_ns = 0
        """The latest change of anything in the upper tree."""
        self._upper: Dirs | None = None
        self._layer_fds: list[int] = []
        self._index_fd = -1
        base_st = os.stat(b".", dir_fd=root_fd)
        if layer_fd is None:
            self.top = Entry(b"", base_st, None, b"", b"", b"")
            return
        try:
            self._open_layer(layer_fd)
            self.top = self._of_node(self._scan())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of every descriptor."""
        self._base.close()
        if self._upper is not None:
            self._upper.close()
        while self._layer_fds:
            os.close(self._layer_fds.pop())

    # -- reading the upper tree ----------------------------------------------------------------

    def _open_layer(self, layer_fd: int) -> None:
        path = UPPER + b"/" + os.fsencode(self.root_name)
        fd = kernel.open_dir_beneath(layer_fd, path)
        self._layer_fds.append(fd)
        self._upper = Dirs(fd)
        try:
            self._index_fd = kernel.open_dir_beneath(layer_fd, INDEX)
        except FileNotFoundError:
            return
        self._layer_fds.append(self._index_fd)

    @cached_property
    def indexed(self) -> dict[bytes, int]:
        """index/ of this root: name -> upper inode."""
        if self._index_fd < 0:
            return {}
        mine = b"%d-" % self.root_index
        found = Dirs(self._index_fd).inodes(b"")
        return {name: ino for name, ino in found if name.startswith(mine)}

    @cached_property
    def _indexed_inos(self) -> frozenset[int]:
        return frozenset(self.indexed.values())

    def _upper_top(self) -> Node:
        assert self._upper is not None
        st = os.stat(b".", dir_fd=self._upper.fd(b""))
        top = Node(b"", self.seen.shown(st), b"", b"", st.st_ino not in self.seen.copies, {})
        self._by_lower[b""] = top
        return top

    def _scan(self) -> Node:
        top = self._upper_top()
        redirected: list[Node] = []
        stack = [top]
        while stack:
            node = stack.pop()
            self._tick()
            try:
                self._scan_directory(node, stack, redirected)
            except PermissionError as error:
                raise self._denied(node.path, "in the layer") from error
            except _GONE:
                continue  # a live layer
        self._drop_doubles(redirected)
        return top

    def _scan_directory(self, node: Node, stack: list[Node], redirected: list[Node]) -> None:
        assert self._upper is not None
        if len(node.path) >= MAX_PATH:
            raise Limit(
                f"the layer holds directories nested beyond {MAX_PATH} bytes of path",
                hint="remove them in the view, rewind, or discard",
            )
        for name, st in self._upper.scan(node.path):
            child = self._take(node, name, st, redirected)
            if child is not None and child.children is not None:
                stack.append(child)

    def _take(
        self, parent: Node, name: bytes, st: os.stat_result, redirected: list[Node]
    ) -> Node | None:
        """Put an entry of the upper tree in its place; what it stands for."""
        assert parent.children is not None
        self.newest_ns = max(self.newest_ns, st.st_ctime_ns)
        path = join(parent.path, name)
        child: Node | None
        if is_whiteout(st):
            child = None
        elif stat.S_ISDIR(st.st_mode):
            child = self._directory(parent, name, path, st, redirected)
        else:
            child = Node(path, self.seen.shown(st))
            if st.st_nlink > 1:
                self.several.setdefault(st.st_ino, []).append(child)
        parent.children[name] = child
        return child

    def _directory(
        self,
        parent: Node,
        name: bytes,
        path: bytes,
        st: os.stat_result,
        redirected: list[Node],
    ) -> Node:
        assert self._upper is not None
        lower = None if parent.lower is None else join(parent.lower, name)
        place = b"/proc/self/fd/%d/%s" % (self._upper.fd(parent.path), name)
        marks = os.listxattr(place, follow_symlinks=False)
        moved = False
        if marks:
            found = {os.fsencode(mark) for mark in marks}
            if REDIRECT in found:
                value = os.getxattr(place, REDIRECT, follow_symlinks=False)
                target = _redirect(value, parent.lower, path)
                moved, lower = target != lower, target
                self._moved[path] = target
            elif OPAQUE in found:
                lower = None
        if lower is not None and not self._is_base_dir(lower):
            lower = None
        node = Node(path, self.seen.shown(st), lower, st.st_ino, False, {})
        if lower is not None:
            node.bare = st.st_ino not in self.seen.copies
        if lower is None or self._by_lower.setdefault(lower, node) is not node:
            self._by_ino[st.st_ino] = node
        else:
            node.key = lower
            if moved:
                redirected.append(node)
        return node

    def _drop_doubles(self, redirected: list[Node]) -> None:
        """A renamed directory whose old place still shows it (a crash between the two halves of
        the rename) is a copy, not a rename."""
        for node in redirected:
            assert node.lower is not None
            del self._by_lower[node.lower]
            still = self.place(node.lower)
            self._placed.clear()
            if still is None:
                self._by_lower[node.lower] = node
            else:
                node.key = node.st.st_ino
                self._by_ino[node.st.st_ino] = node

    def _is_base_dir(self, path: bytes) -> bool:
        st = self._base_stat(path)
        return st is not None and stat.S_ISDIR(st.st_mode)

    def _base_stat(self, path: bytes) -> os.stat_result | None:
        parent, _, name = path.rpartition(b"/")
        if not parent and name.startswith(STAGING):
            return None
        try:
            return os.stat(name or b".", dir_fd=self._base.fd(parent), follow_symlinks=False)
        except _GONE:
            return None
        except PermissionError as error:
            raise self._denied(path, "in the base") from error

    def _denied(self, path: bytes, where: str) -> Denied:
        shown = display(os.fsencode(self.root_name) + b"/" + path)
        return Denied(f"{shown} cannot be read {where}: permission denied")

    # -- the view ------------------------------------------------------------------------------

    def _of_node(self, node: Node) -> Entry:
        if node.bare and node.lower is not None:
            st = self._base_stat(node.lower)
            if st is not None:
                return Entry(node.path, st, node, node.lower, node.lower, node.key)
        return Entry(node.path, node.st, node, None, node.lower, node.key)

    def _of_base(self, path: bytes, base: bytes, true_place: bool) -> Entry | None:
        st = self._base_stat(base)
        if st is None:
            return None
        if stat.S_ISDIR(st.st_mode):
            return Entry(path, st, None, base, base, base if true_place else 0)
        if self.indexed:
            name = self.index_name(st)
            if name in self.indexed and self._is_copied(name, st):
                shown = os.stat(name, dir_fd=self._index_fd, follow_symlinks=False)
                return Entry(path, self.seen.shown(shown), None, None, index=name)
        return Entry(path, st, None, base)

    def _is_copied(self, name: bytes, st: os.stat_result) -> bool:
        """Whether a base file is the one in the index.  One that has lost its other names
        since is, if it did not change otherwise: its inode number may be another's by now."""
        record = self.seen.copies.get(self.indexed[name])
        if st.st_nlink > 1 or record is None:
            return st.st_nlink > 1
        was = record.identity
        return (was.size, was.mtime_ns, was.mode) == (st.st_size, st.st_mtime_ns, st.st_mode)

    def index_name(self, st: os.stat_result) -> bytes:
        """The name that a base inode has in index/ once it is copied up."""
        return b"%d-%x-%x" % (self.root_index, *self.inode(st))

    def child(self, parent: Entry, name: bytes) -> Entry | None:
        """What the view shows under ``name``."""
        if parent.node is not None and parent.node.children is not None:
            node = parent.node.children.get(name, _ABSENT)
            if node is None:
                return None
            if node is not _ABSENT:
                return self._of_node(node)
        if parent.lower is None:
            return None
        # What is below a doubled directory is not the base's directory of that name.
        true_place = parent.key == parent.lower
        return self._of_base(join(parent.path, name), join(parent.lower, name), true_place)

    def touched(self, parent: Entry) -> set[bytes]:
        """The names that the upper tree speaks of, whiteouts too."""
        if parent.node is None or parent.node.children is None:
            return set()
        return set(parent.node.children)

    def names(self, parent: Entry) -> set[bytes]:
        """Every name that the view shows (and those of whiteouts)."""
        found = self.touched(parent)
        if parent.lower is not None:
            try:
                listed = self._base.list(parent.lower)
            except _GONE:
                return found
            except PermissionError as error:
                raise self._denied(parent.lower, "in the base") from error
            names = (os.fsencode(entry.name) for entry in listed)
            top = not parent.lower
            found.update(name for name in names if not (top and name.startswith(STAGING)))
        return found

    def children(self, parent: Entry) -> Iterator[Entry]:
        """The directory's entries in the order of their names."""
        for name in sorted(self.names(parent)):
            entry = self.child(parent, name)
            if entry is not None:
                yield entry

    def walk(self, top: Entry) -> Iterator[Entry]:
        """Everything below ``top``; a directory before what is in it."""
        stack = [top]
        while stack:
            here = stack.pop()
            self._tick()
            for entry in self.children(here):
                yield entry
                if entry.is_dir:
                    stack.append(entry)

    def lookup(self, path: bytes) -> Entry | None:
        """The entry at ``path`` in the view."""
        here: Entry | None = self.top
        for name in path.split(b"/") if path else ():
            if here is None:
                break
            here = self.child(here, name) if here.is_dir else None
        return here

    def find(self, key: Key) -> Entry | None:
        """Where the view shows the directory ``key``, if it does."""
        if isinstance(key, int):
            node = self._by_ino.get(key)
            return None if node is None else self._of_node(node)
        return self.place(key)

    def place(self, lower: bytes) -> Entry | None:
        """Where the view shows the base directory ``lower``, if it does."""
        pending: list[bytes] = []
        at = lower
        while at not in self._placed and at not in self._by_lower and at:
            pending.append(at)
            at = at.rpartition(b"/")[0]
        if at in self._by_lower:
            here: Entry | None = self._of_node(self._by_lower[at])
        else:
            here = self._placed[at] if at else self.top
        while pending:
            deeper = pending.pop()
            if here is not None:
                here = self.child(here, deeper.rpartition(b"/")[2])
                if here is not None and (not here.is_dir or here.key != deeper):
                    here = None
            self._placed[deeper] = here
        return here

    def natural(self, path: bytes) -> bytes:
        """The base path that stands for ``path``, by the renames of directories alone."""
        at = path if self._moved else b""
        while at:
            if at in self._moved:
                return self._moved[at] + path[len(at) :]
            at = at.rpartition(b"/")[0]
        return path

    # -- what an entry holds -------------------------------------------------------------------

    def at(self, entry: Entry) -> tuple[int, bytes]:
        """(directory descriptor, name) of the inode with the entry's attributes and content;
        good until the next call."""
        if entry.index is not None:
            return self._index_fd, entry.index
        if entry.base is not None:
            parent, _, name = entry.base.rpartition(b"/")
            return self._base.fd(parent), name or b"."
        assert self._upper is not None
        assert entry.node is not None
        parent, _, name = entry.node.path.rpartition(b"/")
        return self._upper.fd(parent), name or b"."

    def links(self, entry: Entry) -> int:
        """How many names the file has in the view."""
        if entry.is_dir:
            return 1
        if not self.seen.several and not self._indexed_inos:
            return entry.st.st_nlink  # no base file of several names was touched
        if entry.base is not None:
            inode = self.inode(entry.st)
            return self.seen.uncovered(inode) if inode in self.seen.several else entry.st.st_nlink
        ino = entry.st.st_ino
        return entry.st.st_nlink - (ino in self._indexed_inos) + self.uncovered(ino)

    def inode(self, st: os.stat_result) -> Inode:
        """A base inode as records name it."""
        return 0 if st.st_dev == self.base_dev else st.st_dev, st.st_ino

    def uncovered(self, ino: int) -> int:
        """How many names show the copied-up file ``ino`` without an upper entry of their own."""
        record = self.seen.copies.get(ino)
        if record is None:
            return 0
        return self.seen.uncovered((record.identity.dev, record.identity.ino))

    def open(self, entry: Entry) -> int | None:
        """A descriptor to read the regular file's content; None if it is none any more, or its
        mode keeps the owner from reading it: then it counts as different, and is shown."""
        fd, name = self.at(entry)
        try:
            found = _open_content(name, fd)
        except (*_GONE, PermissionError):
            return None
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            return None
        return found

    def target(self, entry: Entry) -> bytes:
        """Where the symlink points; b"" if it has gone."""
        fd, name = self.at(entry)
        try:
            return os.fsencode(os.readlink(name, dir_fd=fd))
        except OSError:
            return b""

    def xattrs(self, entry: Entry) -> dict[bytes, bytes]:
        """The extended attributes that the view shows, ACLs among them; no security labels."""
        fd, name = self.at(entry)
        place = b"/proc/self/fd/%d/%s" % (fd, name)
        try:
            stored = os.listxattr(place, follow_symlinks=False)
        except OSError:
            return {}
        found: dict[bytes, bytes] = {}
        for text in stored:
            stored_name = os.fsencode(text)
            user = stored_name if entry.base is not None else unescape_xattr(stored_name)
            if user is None or not user.startswith(_COMPARED) or user in _LABELS:
                continue
            try:
                found[user] = os.getxattr(place, stored_name, follow_symlinks=False)
            except OSError:
                continue
            if user == ACCESS_ACL:
                found[user] = acl_with_mode(found[user], entry.st.st_mode)
        return found


_ABSENT = Node(b"", os.stat_result((0,) * 10))
_COMPARED = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")
# The machine's own marks: they differ by where a file lies, not by what a script did.
_LABELS = frozenset((b"security.selinux", b"security.ima", b"security.evm", b"security.SMACK64"))


def join(parent: bytes, name: bytes) -> bytes:
    """``parent``/``name``; b"" is the root."""
    return parent + b"/" + name if parent else name


def _open_content(name: bytes, dir_fd: int) -> int:
    try:
        return os.open(name, _CONTENT | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, _CONTENT, dir_fd=dir_fd)  # not ours: O_NOATIME is the owner's


def _redirect(value: bytes, parent_lower: bytes | None, path: bytes) -> bytes:
    names = value[1:].split(b"/") if value.startswith(b"/") else [value]
    if any(name in (b"", b".", b"..") or b"\0" in name for name in names):
        raise StoreFailed(f"the layer is damaged: {display(path)} has a redirect to nowhere")
    if value.startswith(b"/"):
        return value[1:]
    if parent_lower is None:
        raise StoreFailed(f"the layer is damaged: {display(path)} has a redirect to nowhere")
    return join(parent_lower, value)
