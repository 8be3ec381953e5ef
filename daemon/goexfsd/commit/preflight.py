"""Whether a plan can be carried out, before anything is changed.

The base must be writable where it is touched, nothing touched may be immutable or append-only,
the owner must be allowed to move and fill what has to be, and there must be room for what is
staged and for the before-images.  All obstacles are found; the error names the first and counts
the rest.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from goexfs.errors import Denied, Limit, Unsupported
from goexfs.names import display
from goexfsd import kernel
from goexfsd.commit import folding
from goexfsd.commit.base import Base
from goexfsd.commit.draft import Blueprint, on_disk
from goexfsd.commit.faithful import HANDLE, proc
from goexfsd.commit.places import parent
from goexfsd.commit.plan import Node

_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_RESERVE = 1 << 20
"""Bytes kept free for directories and the records of the commit."""


def check(blueprint: Blueprint, base: Base, before_fd: int) -> None:
    """Raises Denied (read-only, immutable, not allowed) or Limit (no room)."""
    obstacles = list(_obstacles(blueprint, base))
    if obstacles:
        more = f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
        raise Denied(
            f"the commit cannot be applied: {obstacles[0]}{more}; nothing was changed",
            data={"obstacles": obstacles},
        )
    _room(blueprint, base, before_fd)


def _obstacles(blueprint: Blueprint, base: Base) -> Iterator[str]:
    checker = _Checker(blueprint, base)
    for node_id in checker.directories():
        yield from checker.directory(node_id)
    for taken in blueprint.taken:
        yield from checker.entry(taken.root, taken.path, taken.st, taken.role)
    for node in checker.moved():
        path = blueprint.base_paths[node.id]
        yield from checker.entry(node.root, path, base.lstat(node.root, path), "moved")


class _Checker:
    def __init__(self, blueprint: Blueprint, base: Base) -> None:
        self._plan, self._paths, self._base = blueprint.plan, blueprint.base_paths, base
        self._me = os.geteuid()
        self._gone = {(item.root, item.path) for item in blueprint.taken if item.role == "gone"}

    def directories(self) -> list[int]:
        """Base directories in which names come and go."""
        nodes = self._plan.nodes
        ids = {where for node in nodes if len(node.slots) > 1 for where, _ in node.slots}
        ids |= {nodes[stage].slots[0][0] for stage in self._plan.stages}
        return sorted(node for node in ids if not nodes[node].new)

    def moved(self) -> list[Node]:
        return [
            node
            for node in self._plan.nodes
            if not node.new
            and len(node.slots) > 1
            and (node.root, self._paths[node.id]) not in self._gone
        ]

    def directory(self, node_id: int) -> Iterator[str]:
        root, path = self._plan.nodes[node_id].root, self._paths[node_id]
        fd = self._base.directory(root, path)
        shown = self._shown(root, path)
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            yield f"{shown} is on a read-only file system"
            return
        yield from self._flags(root, path)
        mine = os.fstat(fd).st_uid == self._me
        if not mine and not os.access(proc(fd), os.W_OK | os.X_OK):
            yield f"the directory {shown} is not writable"
        elif folding.possible() and folding.folds(proc(fd)):
            yield from self._folded(node_id, proc(fd))

    def _folded(self, node_id: int, path: str) -> Iterator[str]:
        """Names that are one name in a directory that folds case: one file would be lost."""
        moved = [node for node in self._plan.nodes if len(node.slots) > 1]
        left = {name for node in moved for where, name in node.slots[:1] if where == node_id}
        come = {name for node in moved for where, name in node.slots[-1:] if where == node_id}
        for one, other in folding.clashes(come, set(os.listdir(os.fsencode(path))) - left):
            shown = self._shown(self._plan.nodes[node_id].root, self._paths[node_id])
            pair = f"{display(one)} and {display(other)}"
            yield f"{pair} are one name in {shown}, which does not tell upper from lower case"

    def entry(self, root: int, path: bytes, st: os.stat_result, role: str) -> Iterator[str]:
        yield from self._flags(root, path)
        if role in ("gone", "moved") and path and self._me != 0:
            above = self._base.lstat(root, parent(path))
            sticky = above.st_mode & stat.S_ISVTX
            if sticky and self._me not in (above.st_uid, st.st_uid):
                yield f"{self._shown(root, path)} belongs to somebody else in a sticky directory"
            if role == "gone" and stat.S_ISDIR(st.st_mode) and self._foreign(root, path, st):
                shown = self._shown(root, path)
                yield f"the directory {shown} belongs to somebody else and is not writable"
        if role == "filled" and not self._can_fill(root, path, st):
            shown = self._shown(root, path)
            yield f"{shown} has other names or another owner, and is not writable"
        if role == "attrs" and self._me not in (0, st.st_uid):
            return  # what cannot be set is reported as a loss

    def _foreign(self, root: int, path: bytes, st: os.stat_result) -> bool:
        """A directory that only its owner can empty, or take to another directory."""
        if self._me in (0, st.st_uid):
            return False
        return not os.access(proc(self._base.directory(root, path)), os.W_OK | os.X_OK)

    def _can_fill(self, root: int, path: bytes, st: os.stat_result) -> bool:
        if self._me in (0, st.st_uid):
            return True
        fd = self._base.open(root, path, HANDLE)
        try:
            return os.access(proc(fd), os.W_OK | os.R_OK)
        finally:
            os.close(fd)

    def _flags(self, root: int, path: bytes) -> Iterator[str]:
        bits, _ = self._base.extra(root, path)
        if bits & kernel.ATTR_IMMUTABLE:
            yield f"{self._shown(root, path)} is immutable (chattr +i)"
        elif bits & kernel.ATTR_APPEND:
            yield f"{self._shown(root, path)} is append-only (chattr +a)"

    def _shown(self, root: int, path: bytes) -> str:
        name = self._plan.roots[root].name
        return display(os.fsencode(name) + b"/" + path if path else name)


def _room(blueprint: Blueprint, base: Base, before_fd: int) -> None:
    """Enough free space for all copies, were nothing shared."""
    plan, needed = blueprint.plan, dict[int, tuple[int, int, int]]()
    for item in blueprint.staged:
        home = _home(blueprint, item.node)
        fd = base.directory(home.root, blueprint.base_paths[home.id])
        size = item.room * (2 if item.bytes_only else 1)
        device = os.fstat(fd).st_dev
        sofar = needed.get(device, (home.id, 0, 0))
        needed[device] = sofar[0], sofar[1] + size, sofar[2] + 1
    for home_id, size, files in needed.values():
        home = plan.nodes[home_id]
        path = blueprint.base_paths[home_id]
        free = os.fstatvfs(base.directory(home.root, path))
        _enough(free, size, files, f"the file system of {plan.roots[home.root].name}")
    device = os.fstat(before_fd).st_dev
    images = {
        (item.st.st_dev, item.st.st_ino): on_disk(item.st)
        for item in blueprint.taken
        if item.role != "attrs" and item.st.st_dev != device
    }
    _enough(os.fstatvfs(before_fd), sum(images.values()), len(images), "the store")


def _home(blueprint: Blueprint, node_id: int) -> Node:
    """The base directory that a staged node's staging directory is in."""
    nodes = blueprint.plan.nodes
    while nodes[node_id].new:
        node_id = nodes[node_id].slots[0][0]
    return nodes[node_id]


def _enough(free: os.statvfs_result, size: int, files: int, where: str) -> None:
    blocks = free.f_bfree if os.geteuid() == 0 else free.f_bavail
    room = blocks * free.f_frsize
    if size + _RESERVE > room:
        raise Limit(
            f"{where} has no room for the commit: {size} bytes wanted, {room} free; "
            "nothing was changed",
            hint="free some space there, then commit again",
        )
    if free.f_files and files > free.f_favail:
        raise Limit(f"{where} has no inodes left for {files} new files; nothing was changed")


def exchange_works(stage_fd: int) -> None:
    """Unsupported unless renameat2 can exchange names and refuse to replace here."""
    names = (b"probe1", b"probe2")
    for name in names:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=stage_fd))
    try:
        kernel.renameat2(stage_fd, names[0], stage_fd, names[1], kernel.RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in _NO_EXCHANGE:
            raise
        raise Unsupported(
            "the file system of the root cannot exchange two names in one step "
            "(renameat2 RENAME_EXCHANGE); nothing was changed",
            hint="commit to a local file system such as ext4, btrfs, xfs or tmpfs",
        ) from error
    finally:
        for name in names:
            os.unlink(name, dir_fd=stage_fd)
