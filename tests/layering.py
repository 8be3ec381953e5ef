"""Layers built by hand, as the view writes them, with plain calls on plain directories.

``Session`` keeps three trees: ``base`` (never touched), ``layer``, and ``model``: a copy of the
base on which the same operations are done for real, so that it is what the view must show.
Deleted entries are kept aside, for the format counts on inode numbers not being reused (btrfs
does not).
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from goexfsd.layer.format import OPAQUE, REDIRECT, escape_xattr, is_whiteout
from goexfsd.layer.originals import Keeper
from goexfsd.layer.origins import NOTHING, Identity, Kind, Record, encode

ROOT_NAME = b"r"


@dataclass(frozen=True, slots=True)
class Root:
    index: int = 0
    name: str = "r"


def copy_tree(source: bytes, target: bytes) -> dict[int, int]:
    """A faithful copy (hard links, xattrs, times); returns source inode by target inode."""
    inodes: dict[int, int] = {}
    names: dict[int, bytes] = {}
    os.mkdir(target)
    _copy_into(source, target, inodes, names)
    return inodes


def _copy_into(
    source: bytes, target: bytes, inodes: dict[int, int], names: dict[int, bytes]
) -> None:
    for name in os.listdir(source):
        one, other = source + b"/" + name, target + b"/" + name
        st = os.lstat(one)
        if st.st_ino in names:
            os.link(names[st.st_ino], other, follow_symlinks=False)
            continue
        if stat.S_ISDIR(st.st_mode):
            os.mkdir(other)
            _copy_into(one, other, inodes, names)
        else:
            copy_node(one, other)
            names[st.st_ino] = other
        dress(one, other, st)
        inodes[os.lstat(other).st_ino] = st.st_ino
    dress(source, target, os.lstat(source))
    inodes[os.lstat(target).st_ino] = os.lstat(source).st_ino


def copy_node(source: bytes, target: bytes) -> None:
    st = os.lstat(source)
    if stat.S_ISREG(st.st_mode):
        shutil.copyfile(source, target)
    elif stat.S_ISLNK(st.st_mode):
        os.symlink(os.readlink(source), target)
    else:
        os.mknod(target, st.st_mode, st.st_rdev)


def dress(source: bytes, target: bytes, st: os.stat_result) -> None:
    """Owner, xattrs, mode and times."""
    os.chown(target, st.st_uid, st.st_gid, follow_symlinks=False)
    for text in os.listxattr(source, follow_symlinks=False):
        name = os.fsencode(text)
        value = os.getxattr(source, name, follow_symlinks=False)
        os.setxattr(target, escape_xattr(name), value, follow_symlinks=False)
    if not stat.S_ISLNK(st.st_mode):
        os.chmod(target, stat.S_IMODE(st.st_mode))
    os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=False)


def _ino(upper: bytes) -> int:
    """Of the upper inode that is there; 0 if there is none."""
    return os.lstat(upper).st_ino if os.path.lexists(upper) else 0


@dataclass
class Session:
    """One root, its layer, and what the view must show."""

    home: bytes
    inodes: dict[int, int] = field(default_factory=dict)
    """Model inode -> base inode, for what came from the base."""
    timed: set[int] = field(default_factory=set)
    """Model inodes whose times were set."""
    _held: list[int] = field(default_factory=list)
    _serial: int = 0
    _top_is_ours: bool = False

    @classmethod
    def over(cls, home: Path, build: Callable[[bytes], None]) -> Session:
        """A session over a base that ``build`` fills."""
        base = os.fsencode(home) + b"/base"
        os.mkdir(base)
        build(base)
        return cls.again(home)

    @classmethod
    def again(cls, home: Path) -> Session:
        """A session over the base that is in ``home``; an earlier one's trees are moved aside."""
        self = cls(os.fsencode(home))
        for path in (self.layer, self.grave, self.model):
            if os.path.lexists(path):
                os.rename(path, path + b".former")
        for path in (self.layer, self.grave):
            os.mkdir(path)
        for name in (b"upper", b"work", b"index"):
            os.mkdir(self.layer + b"/" + name)
        os.mkdir(self.upper(b""))
        os.close(os.open(self.layer + b"/origins", os.O_CREAT | os.O_WRONLY))
        self.inodes = copy_tree(self.base, self.model)
        for path in walk(self.model):  # keep their inode numbers taken
            self._held.append(os.open(self.model + b"/" + path, os.O_PATH | os.O_NOFOLLOW))
        return self

    def close(self) -> None:
        for fd in self._held:
            os.close(fd)
        self._held.clear()

    @property
    def base(self) -> bytes:
        return self.home + b"/base"

    @property
    def layer(self) -> bytes:
        return self.home + b"/layer"

    @property
    def grave(self) -> bytes:
        return self.home + b"/grave"

    @property
    def model(self) -> bytes:
        return self.home + b"/model"

    def upper(self, path: bytes) -> bytes:
        top = self.layer + b"/upper/" + ROOT_NAME
        return top + b"/" + path if path else top

    # -- the layer's bookkeeping -----------------------------------------------------------------

    def record(self, kind: Kind, upper_ino: int, path: bytes, identity: Identity) -> None:
        with open(self.layer + b"/origins", "ab") as log:
            log.write(encode(Record(kind, 0, 1, upper_ino, path, identity)))

    def identity(self, path: bytes) -> Identity:
        dev = os.lstat(self.base).st_dev
        return Identity.of(os.lstat(self.base + b"/" + path), dev)

    def keep_original(self, path: bytes) -> None:
        """As the view does before it changes or replaces a base file."""
        layer = os.open(self.layer, os.O_PATH | os.O_DIRECTORY)
        fd = os.open(self.base + b"/" + path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        keeper = Keeper(layer)
        try:
            keeper.keep(0, self.identity(path), fd)
        finally:
            keeper.close()
            os.close(fd)
            os.close(layer)

    def bury(self, path: bytes) -> None:
        """Take an upper entry away for good, keeping its inode number taken."""
        st = os.lstat(path)
        if not stat.S_ISDIR(st.st_mode) and (st.st_nlink > 1 or is_whiteout(st)):
            os.unlink(path)
            return
        self._serial += 1
        os.rename(path, self.grave + b"/%d" % self._serial)

    def lower(self, path: bytes) -> bytes | None:
        """The base path that the view's ``path`` maps to, if anything may show through."""
        here: bytes | None = b""
        done = b""
        for name in path.split(b"/") if path else ():
            done = done + b"/" + name if done else name
            here = None if here is None else (here + b"/" + name if here else name)
            here = self._mapped(done, here)
        return here

    def _mapped(self, path: bytes, natural: bytes | None) -> bytes | None:
        upper = self.upper(path)
        if not os.path.lexists(upper) or not stat.S_ISDIR(os.lstat(upper).st_mode):
            return natural
        marks = os.listxattr(upper, follow_symlinks=False)
        if OPAQUE.decode() in marks:
            return None
        if REDIRECT.decode() in marks:
            return os.getxattr(upper, REDIRECT)[1:]
        return natural

    def beneath(self, path: bytes) -> bytes | None:
        """The base entry that a whiteout at ``path`` would hide."""
        parent, _, name = path.rpartition(b"/")
        lower = self.lower(parent)
        if lower is None:
            return None
        found = lower + b"/" + name if lower else name
        return found if os.path.lexists(self.base + b"/" + found) else None

    def hide(self, path: bytes) -> None:
        """Remove ``path`` from the view."""
        upper = self.upper(path)
        hidden = self.beneath(path)
        had = os.path.lexists(upper) and not is_whiteout(os.lstat(upper))
        if hidden is not None:
            self.record(Kind.HIDE, _ino(upper), hidden, self.identity(hidden))
        if had:
            self.bury(upper)
        if hidden is not None and not os.path.lexists(upper):
            self.copy_up(path.rpartition(b"/")[0])
            os.mknod(upper, stat.S_IFCHR, 0)

    def copy_up(self, path: bytes) -> bytes:
        """Make sure of an upper entry; returns its real path."""
        upper = self.upper(path)
        if os.path.lexists(upper):
            return upper
        self.copy_up(path.rpartition(b"/")[0])
        lower = self.lower(path)
        assert lower is not None
        source = self.base + b"/" + lower
        st = os.lstat(source)
        if stat.S_ISDIR(st.st_mode):
            os.mkdir(upper)
            self._copy_directory(source, upper, lower)
        else:
            self._copy_file(source, upper, lower, st)
        return upper

    def _copy_directory(self, source: bytes, upper: bytes, lower: bytes) -> None:
        dress(source, upper, os.lstat(source))
        self.record(Kind.COPY, os.lstat(upper).st_ino, lower, self.identity(lower))

    def _copy_file(self, source: bytes, upper: bytes, lower: bytes, st: os.stat_result) -> None:
        index = self.layer + b"/index/0-0-%x" % st.st_ino
        if st.st_nlink > 1 and os.path.lexists(index):
            self.record(Kind.ALIAS, os.lstat(index).st_ino, lower, self.identity(lower))
            os.link(index, upper, follow_symlinks=False)
            return
        if stat.S_ISREG(st.st_mode):
            self.keep_original(lower)
        copy_node(source, upper)
        dress(source, upper, st)
        self.record(Kind.COPY, os.lstat(upper).st_ino, lower, self.identity(lower))
        if st.st_nlink > 1:
            os.link(upper, index, follow_symlinks=False)

    def _make(self, path: bytes) -> bytes:
        """The place for a new entry in the upper tree."""
        parent = path.rpartition(b"/")[0]
        self.copy_up(parent)
        upper = self.upper(path)
        if os.path.lexists(upper):
            assert is_whiteout(os.lstat(upper))
            os.unlink(upper)
        return upper

    # -- operations, on the model and on the layer -------------------------------------------------

    def _do(self, path: bytes, change: Callable[[bytes], None]) -> None:
        """Change an existing entry in both."""
        change(self.model + b"/" + path if path else self.model)
        if not path and not self._top_is_ours:
            self._top_is_ours = True
            self._copy_directory(self.base, self.upper(b""), b"")
        change(self.copy_up(path))

    def write(self, path: bytes, data: bytes) -> None:
        """Replace a file's content in place, or create it."""
        real = self.model + b"/" + path
        new = not os.path.lexists(real)
        _write(real, data)
        if new:
            _write(self._make(path), data)
        else:
            _write(self.copy_up(path), data)

    def touch(self, path: bytes) -> None:
        """Copy up, and change nothing."""
        assert os.path.lexists(self.model + b"/" + path)
        self.copy_up(path)

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self.model + b"/" + path)
        upper = self._make(path)
        os.mkdir(upper)
        os.setxattr(upper, OPAQUE, b"y")

    def symlink(self, path: bytes, target: bytes) -> None:
        os.symlink(target, self.model + b"/" + path)
        os.symlink(target, self._make(path))

    def mkfifo(self, path: bytes) -> None:
        os.mkfifo(self.model + b"/" + path)
        os.mkfifo(self._make(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self.model + b"/" + path)
        self.hide(path)

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.model + b"/" + path)
        self.hide(path)

    def remove(self, path: bytes) -> None:
        """rm -r."""
        real = self.model + b"/" + path
        if not stat.S_ISDIR(os.lstat(real).st_mode):
            self.unlink(path)
            return
        for name in os.listdir(real):
            self.remove(path + b"/" + name)
        self.rmdir(path)

    def link(self, old: bytes, new: bytes) -> None:
        real_old, real_new = self.model + b"/" + old, self.model + b"/" + new
        os.link(real_old, real_new, follow_symlinks=False)
        os.link(self.copy_up(old), self._make(new), follow_symlinks=False)

    def rename(self, old: bytes, new: bytes) -> None:
        real_old, real_new = self.model + b"/" + old, self.model + b"/" + new
        there = os.path.lexists(real_new)
        if there and os.lstat(real_old).st_ino == os.lstat(real_new).st_ino:
            return
        os.rename(real_old, real_new)
        self.copy_up(old)
        if there:
            below = self.beneath(new)
            if below is not None and stat.S_ISREG(os.lstat(self.base + b"/" + below).st_mode):
                self.keep_original(below)
            self.hide(new)
        self._rename_upper(old, new)

    def _rename_upper(self, old: bytes, new: bytes) -> None:
        hidden = self.beneath(old)
        lower = self.lower(old)
        target = self._make(new)
        upper = self.upper(old)
        if stat.S_ISDIR(os.lstat(upper).st_mode) and lower is not None:
            os.setxattr(upper, REDIRECT, b"/" + lower)
        if hidden is not None:
            self.record(Kind.HIDE, _ino(upper), hidden, self.identity(hidden))
        os.rename(upper, target)
        if hidden is not None:
            os.mknod(upper, stat.S_IFCHR, 0)

    def chmod(self, path: bytes, mode: int) -> None:
        self._do(path, lambda real: os.chmod(real, mode))

    def chown(self, path: bytes, uid: int) -> None:
        self._do(path, lambda real: os.chown(real, uid, -1, follow_symlinks=False))

    def utime(self, path: bytes, when: int) -> None:
        real = self.model + b"/" + path if path else self.model
        self.timed.add(os.lstat(real).st_ino)
        self._do(path, lambda real: os.utime(real, ns=(when, when), follow_symlinks=False))
        self.record(Kind.TIMES, os.lstat(self.upper(path)).st_ino, b"", NOTHING)

    def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        real = self.model + b"/" + path if path else self.model
        os.setxattr(real, name, value, follow_symlinks=False)
        self._do(path, lambda _: None)
        os.setxattr(self.upper(path), escape_xattr(name), value, follow_symlinks=False)


def _write(real: bytes, data: bytes) -> None:
    fd = os.open(real, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


# -- manifests ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """Everything that counts of an entry."""

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    data: bytes
    """Content, or a symlink's target."""
    rdev: int
    ino: int
    links: int


def walk(top: bytes) -> list[bytes]:
    """Every path below ``top``, relative, and b"" itself."""
    found = [b""]
    stack = [b""]
    while stack:
        here = stack.pop()
        for name in os.listdir(top + b"/" + here):
            path = here + b"/" + name if here else name
            found.append(path)
            if stat.S_ISDIR(os.lstat(top + b"/" + path).st_mode):
                stack.append(path)
    return found


def manifest(top: bytes) -> dict[bytes, Item]:
    return {path: item(top + b"/" + path if path else top) for path in walk(top)}


def item(real: bytes) -> Item:
    st = os.lstat(real)
    data = b""
    if stat.S_ISREG(st.st_mode):
        with open(real, "rb") as file:
            data = file.read()
    elif stat.S_ISLNK(st.st_mode):
        data = os.readlink(real)
    names = sorted(os.fsencode(name) for name in os.listxattr(real, follow_symlinks=False))
    xattrs = tuple((name, os.getxattr(real, name, follow_symlinks=False)) for name in names)
    links = 1 if stat.S_ISDIR(st.st_mode) else st.st_nlink
    return Item(
        stat.S_IFMT(st.st_mode),
        stat.S_IMODE(st.st_mode),
        (st.st_uid, st.st_gid),
        st.st_mtime_ns,
        xattrs,
        data,
        st.st_rdev,
        st.st_ino,
        links,
    )


__all__ = ["Item", "Root", "Session", "copy_tree", "manifest", "walk"]
